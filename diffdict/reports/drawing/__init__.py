"""Pictures of pictures: canvas, colours, overlays, sheets and figures."""
