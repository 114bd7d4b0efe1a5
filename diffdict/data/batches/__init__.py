"""Pictures in batches: what happens to them, who loads them, where a loader stands."""
