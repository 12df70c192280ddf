"""`musubi-ext demo`: the whole chain on the pocket model, from rendered clips to a promoted pair and its videos."""
