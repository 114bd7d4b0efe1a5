"""What of whole pictures a linear head learns: their class, what is in them, or attributes."""

from collections.abc import Mapping, Sequence

from diffdict.classifiers.targets.attribute_targets import AttributeTargets
from diffdict.classifiers.targets.class_targets import ClassTargets
from diffdict.classifiers.targets.presence_targets import PresenceTargets
from diffdict.errors import UserError
from diffdict.metrics.accuracy import check_prevalence

Targets = ClassTargets | PresenceTargets | AttributeTargets  # they answer alike


def picture_targets(
    target: str,
    names: Sequence[str],
    attributes: Sequence[Mapping],
    prevalence: Sequence[float | int],
) -> Targets:
    """Those of target=class, presence or attributes."""
    check_prevalence(prevalence)
    if target == "attributes":
        return AttributeTargets(attributes)
    if len(names) < 2:
        raise UserError(
            f"A probe tells two classes or more apart, got {len(names)}: give a data set of more"
        )
    return ClassTargets(names) if target == "class" else PresenceTargets(names, prevalence)
