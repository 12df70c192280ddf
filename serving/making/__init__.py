"""How a video is made: the request, the stages on a pipeline, what makes a large base fit, what is measured."""
