"""IoU at every threshold from counts of scores."""

import torch

from diffdict.metrics.features.score_overlap import ScoreOverlap, threshold_of


def pictures():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        scores = torch.rand(2, 4, 500, generator=generator) * 1.6 - 0.3
        truth = torch.rand(4, 500, generator=generator) > 0.7
        truth[3] = False
        yield scores, truth


def test_it_is_the_iou_of_what_lies_above():
    metric = ScoreOverlap(2, 4)
    for scores, truth in pictures():
        metric.update(scores, truth)
    iou = metric.compute()
    scores = torch.cat([scores for scores, _ in pictures()], dim=2)
    truth = torch.cat([truth for _, truth in pictures()], dim=1)
    for place in (1, 60, 150, 290):
        above = scores >= threshold_of(place)
        both, union = (above & truth).sum(2), (above | truth).sum(2)
        assert torch.allclose(iou[:, :3, place], (both / union)[:, :3].double(), atol=2e-3)
    assert torch.allclose(iou[:, :3, 0], truth[:3].double().mean(1).expand(2, 3))
    assert iou[:, 3].isnan().all()


def test_pictures_in_any_parts_count_alike():
    whole, parts = ScoreOverlap(2, 4), [ScoreOverlap(2, 4) for _ in range(3)]
    for part, (scores, truth) in zip(parts, pictures(), strict=True):
        whole.update(scores, truth)
        part.update(scores, truth)
    assert torch.equal(whole.inside, sum(part.inside for part in parts))
    assert torch.equal(whole.everywhere, sum(part.everywhere for part in parts))
