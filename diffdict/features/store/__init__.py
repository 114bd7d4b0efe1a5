"""The feature store: what a network saw in a split, in shards sealed by their checksums."""

from diffdict.features.store.feature_store import FeatureStore
from diffdict.features.store.identity import (
    POOL,
    Identity,
    check_pool,
    pictures_per_shard,
    store_path,
)

__all__ = ["POOL", "FeatureStore", "Identity", "check_pool", "pictures_per_shard", "store_path"]
