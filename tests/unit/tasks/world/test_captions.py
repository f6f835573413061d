from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tasks.world.captions import JUNK, SYNONYMS, clean_caption, noisy_caption, relation, vocabulary
from tasks.world.scenes import COLOURS, SHAPES, Scene, SceneObject, render_scene

BLANK = Image.new("RGB", (128, 128))
RED_CIRCLE = SceneObject("circle", "red", "small", (10, 10, 30, 30))
BLUE_STAR = SceneObject("star", "blue", "large", (80, 20, 120, 60))
GREEN_RING = SceneObject("ring", "green", "small", (10, 90, 30, 110))
SCENE = Scene(BLANK, (RED_CIRCLE, BLUE_STAR, GREEN_RING))
OTHER = Scene(BLANK, (SceneObject("heart", "white", "small", (10, 10, 30, 30)),))
RELATION = re.compile(r"left of|right of|above|below")


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [render_scene(rng, 1, 5) for _ in range(count)]


def test_relations_follow_the_axis_of_larger_distance() -> None:
    assert relation(RED_CIRCLE, BLUE_STAR) == "left of"
    assert relation(BLUE_STAR, RED_CIRCLE) == "right of"
    assert relation(RED_CIRCLE, GREEN_RING) == "above"
    assert relation(GREEN_RING, RED_CIRCLE) == "below"


def test_every_stated_relation_is_true() -> None:
    named = {"circle": RED_CIRCLE, "star": BLUE_STAR, "ring": GREEN_RING}
    rng = np.random.default_rng(1)
    stated = 0
    for _ in range(200):
        caption = clean_caption(SCENE, rng)
        objects = [named[word] for word in caption.split() if word in named]
        joints = re.findall(r"left of|right of|above|below|and|with", caption)
        assert len(joints) == len(objects) - 1
        for before, joint, after in zip(objects, joints, objects[1:], strict=False):
            if RELATION.fullmatch(joint):
                assert relation(before, after) == joint
                stated += 1
    assert stated > 50


def test_clean_captions_name_two_to_four_objects_and_only_true_words() -> None:
    rng = np.random.default_rng(2)
    counts = set()
    for scene in [scene for scene in scenes(120) if len(scene.objects) >= 2]:
        words = clean_caption(scene, rng).split()
        counts.add(sum(word in SHAPES for word in words))
        assert {word for word in words if word in SHAPES} <= {item.shape for item in scene.objects}
        assert {word for word in words if word in COLOURS} <= {item.colour for item in scene.objects}
    assert counts == {2, 3, 4}


def test_colour_is_mentioned_nine_times_in_ten_and_size_once_in_four() -> None:
    rng = np.random.default_rng(3)
    words = " ".join(clean_caption(SCENE, rng) for _ in range(1000)).split()
    objects = sum(word in SHAPES for word in words)
    assert sum(word in COLOURS for word in words) / objects == pytest.approx(0.9, abs=0.03)
    assert sum(word in {"small", "large"} for word in words) / objects == pytest.approx(0.25, abs=0.03)


def test_article_fits_the_next_word() -> None:
    scene = Scene(BLANK, (SceneObject("ring", "orange", "small", (0, 0, 9, 9)), RED_CIRCLE))
    rng = np.random.default_rng(4)
    captions = " ".join(clean_caption(scene, rng) for _ in range(100))
    assert "an orange ring" in captions and "a red circle" in captions
    assert not re.search(r"\ba orange|\ban (?!orange)", captions)


def test_a_lone_object_still_gets_a_caption() -> None:
    assert clean_caption(OTHER, np.random.default_rng(0)).endswith("heart")


def test_one_noisy_caption_in_ten_is_about_the_other_picture() -> None:
    rng = np.random.default_rng(5)
    captions = [set(noisy_caption(SCENE, rng, OTHER).split()) for _ in range(2000)]
    wrong = sum(bool(words & {"heart", "valentine"}) for words in captions)
    right = sum(bool(words & {"circle", "disc", "star", "asterisk", "ring", "hoop"}) for words in captions)
    assert wrong + right == 2000
    assert wrong / 2000 == pytest.approx(0.1, abs=0.02)


def test_noisy_captions_have_synonyms_and_junk_and_no_articles() -> None:
    rng = np.random.default_rng(6)
    words = " ".join(noisy_caption(SCENE, rng, SCENE) for _ in range(2000)).split()
    plain, odd = (sum(word in pool for word in words) for pool in (set(SYNONYMS), set(SYNONYMS.values())))
    assert odd / (plain + odd) == pytest.approx(0.3, abs=0.03)
    assert set(JUNK) <= set(words)
    assert not {"a", "an"} & set(words)


def test_vocabulary_covers_every_caption_and_nothing_else() -> None:
    rng = np.random.default_rng(7)
    all_scenes = scenes(600)
    emitted: set[str] = set()
    for scene, other in pairwise(all_scenes):
        emitted |= set(clean_caption(scene, rng).split(" ")) | set(noisy_caption(scene, rng, other).split(" "))
    words = vocabulary()
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert words[5:] == sorted(emitted)
    assert all(re.fullmatch("[a-z]+", word) for word in words[5:])


def test_no_synonym_is_another_thing_s_word() -> None:
    assert len(set(SYNONYMS.values())) == len(SYNONYMS)
    assert not set(SYNONYMS.values()) & (set(SYNONYMS) | set(JUNK))
