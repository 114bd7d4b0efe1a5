"""What a trained thing is worth: torchmetrics whose states only sum, so that ranks agree."""
