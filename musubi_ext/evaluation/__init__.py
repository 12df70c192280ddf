"""Numbers that can be trusted: metrics of a clip, intervals over clips, and the gate that decides a promotion."""
