"""Contact sheets: each picture, mask and word where it belongs."""

import numpy as np
import torch

from diffdict.data.toy_faces import ToyFaces
from diffdict.reports.drawing.contact_sheet import GAP, contact_sheet

PALETTE = [(10, 20, 30), (200, 100, 0)]


def test_a_sheet_shows_each_picture_and_mask_where_it_belongs():
    images = torch.linspace(-1, 1, 3).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4), torch.full((4, 4), 255)]).long()
    sheet = np.asarray(contact_sheet(images, masks, PALETTE, columns=2, scale=2))
    first, mask = sheet[GAP : GAP + 8, GAP : GAP + 8], sheet[GAP + 10 : GAP + 18, GAP : GAP + 8]
    assert (first == 0).all()
    assert (mask == PALETTE[0]).all()
    right = 8 + 2 * GAP
    assert (sheet[GAP + 10 : GAP + 18, right : right + 8] == PALETTE[1]).all()
    below = 2 * GAP + 20
    assert (sheet[below : below + 8, GAP : GAP + 8] == 255).all()
    assert (sheet[below + 10 : below + 18, GAP : GAP + 8] == 0).all(), "an ignored label is black"


def test_a_blended_mask_lets_the_picture_through():
    sheet = contact_sheet(
        torch.ones(1, 3, 4, 4), torch.zeros(1, 4, 4).long(), PALETTE, scale=1, opacity=0.5
    )
    assert sheet.getpixel((GAP + 1, GAP + 7)) == (132, 138, 142)


def test_legend_captions_and_predictions_make_it_taller():
    faces = ToyFaces("val", val_pictures=4)
    images = torch.stack([face["image"] for face in faces])
    masks = torch.stack([face["mask"] for face in faces])
    plain = contact_sheet(images)
    masked = contact_sheet(images, masks, faces.palette)
    guessed = contact_sheet(images, masks, faces.palette, predictions=masks)
    named = contact_sheet(images, masks, faces.palette, class_names=faces.class_names)
    told = contact_sheet(images, captions=["a", "b", "c", "d"])
    assert plain.height < told.height < masked.height < named.height < guessed.height
    assert len({sheet.width for sheet in (plain, masked, guessed, named, told)}) == 1
