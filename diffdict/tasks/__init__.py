"""LightningModules, a file for each word of task=; rooms hold the parts that are no task."""
