"""Text: words to ids, ids to states; a prompt's states do not depend on what it is packed with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.compare import assert_equal, distance, shaken
from videodit.errors import InputError
from videodit.models import text
from videodit.models.text import SmallT5, Tokenizer, extended, train_tokenizer

CAPTIONS = ["A large red ball rolls right.", "a small BLUE cube spins, slowly", "the red cube"]
LENGTHS = (6, 1, 30, 2, 13)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(CAPTIONS, tmp_path_factory.mktemp("words") / "new" / "tokenizer.json", vocabulary=64)


@pytest.fixture(scope="module", params=[False, True], ids=["bias shared", "bias a layer"])
def encoder(request: pytest.FixtureRequest) -> SmallT5:
    torch.manual_seed(0)
    encoder = SmallT5(vocabulary=50, dim=24, layers=2, heads=2, head_dim=8, ffn=32, bias_per_layer=request.param)
    return shaken(encoder)


# ---- the tokenizer ----


def test_prompts_lie_end_to_end_each_closed(tokenizer: Tokenizer) -> None:
    end = tokenizer._backend.token_to_id("</s>")
    ids, lengths = tokenizer(["the red cube", "", "Ball!"])
    assert lengths == (4, 1, 3)  # Ball, !, </s>
    assert ids.dtype == torch.long and len(ids) == sum(lengths)
    assert [part[-1].item() for part in ids.split(lengths)] == [end] * 3
    assert (ids == end).sum() == 3
    assert torch.equal(ids.split(lengths)[0], tokenizer(["the red cube"])[0])
    assert ids.max() < len(tokenizer)


def test_case_does_not_matter(tokenizer: Tokenizer) -> None:
    assert torch.equal(tokenizer(["a Small bluE CUBE"])[0], tokenizer(["a small blue cube"])[0])


def test_unknown_words_are_named_as_written(tokenizer: Tokenizer) -> None:
    assert tokenizer.unknown_words("a large red ball") == []
    assert tokenizer.unknown_words("") == []
    assert tokenizer.unknown_words("a Zebra rolls, über the red ball; zebra") == ["Zebra", "über", ";", "zebra"]
    ids, _ = tokenizer(["a zebra"])
    assert (ids == tokenizer.unknown).sum() == 1


def test_long_prompts_are_cut_and_it_is_known_where(tokenizer: Tokenizer) -> None:
    long = " ".join(["red", "ball"] * text.LONGEST)
    assert tokenizer([long, "a red ball"])[1] == (text.LONGEST, 4)
    assert tokenizer(["a red"])[0][-1] == tokenizer([long])[0][-1], "the end is marked"
    assert tokenizer.unread("a red ball") == tokenizer.unread("") == ""
    few = Tokenizer(path=tokenizer.path, length=4)
    assert few.unread("a large  red ball rolls") == "ball rolls" and few(["a large red ball"])[1] == (4,)


def test_training_depends_on_the_captions_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = train_tokenizer(CAPTIONS, tmp_path / "tokenizer.json", vocabulary=64)
    assert again.path.read_bytes() == tokenizer.path.read_bytes()
    words = {word for caption in CAPTIONS for word in re.findall(r"\w+|[.,]", caption.lower())}
    assert len(again) == len({*words, "<pad>", "</s>", "<unk>"})
    assert len(train_tokenizer(CAPTIONS, tmp_path / "few.json", vocabulary=8)) == 8


def test_new_words_take_the_places_that_are_free(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The most frequent first; what was known keeps its number."""
    captions = ["A tall woman, red hair", "a WOMAN walks", "woman, ball"]
    (tmp_path / "more.json").write_bytes(extended(tokenizer.path, captions, vocabulary=len(tokenizer) + 2))
    more = Tokenizer(path=tmp_path / "more.json")
    assert len(more) == len(tokenizer) + 2
    assert more(["the red cube"])[0].tolist() == tokenizer(["the red cube"])[0].tolist()
    assert more.unknown_words("Woman with hair walks tall") == ["with", "walks", "tall"]
    assert extended(tokenizer.path, ["a red ball"], vocabulary=99) == tokenizer.path.read_bytes()


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    for content in (None, "", '{"version": "1.0"}'):
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError, match="words.json is not a tokenizer file|words.json does not exist"):
            Tokenizer(path=path)


def test_a_template_of_a_token_that_is_not_there_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Found when a prompt is read, by whatever reads it: the library panics, with no Exception."""
    content = json.loads(tokenizer.path.read_text())
    content["post_processor"]["single"][1]["SpecialToken"]["id"] = ""
    (tmp_path / "words.json").write_text(json.dumps(content))
    bad = Tokenizer(path=tmp_path / "words.json")
    for read in (lambda prompt: bad([prompt]), bad.unknown_words, bad.unread):
        with pytest.raises(InputError, match="words.json is not a tokenizer file"):
            read("a ball")


def test_new_words_of_a_tokenizer_that_normalizes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    content = json.loads(tokenizer.path.read_text()) | {"normalizer": None}
    (tmp_path / "plain.json").write_text(json.dumps(content))
    more = json.loads(extended(tmp_path / "plain.json", ["a Woman walks"], vocabulary=99))["model"]["vocab"]
    assert "Woman" in more and "walks" in more


# ---- the encoder ----


@pytest.mark.parametrize("together", [1, max(LENGTHS), 10_000])
def test_a_pack_equals_its_prompts_alone(encoder: SmallT5, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sequence or in several."""
    monkeypatch.setattr(text, "TOGETHER", together)
    ids = torch.randint(3, 50, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    packed = encoder(ids, LENGTHS)
    alone = torch.cat([encoder(part, (len(part),)).states for part in ids.split(LENGTHS)])
    assert packed.lengths == LENGTHS and packed.states.shape == (sum(LENGTHS), encoder.dim)
    assert alone.std() > 0.5
    assert_equal(packed.states, alone)
    expected = torch.autograd.grad(alone.pow(2).sum(), list(encoder.parameters()))
    for a, b in zip(torch.autograd.grad(packed.states.pow(2).sum(), list(encoder.parameters())), expected, strict=True):
        assert_equal(a, b)


def test_order_and_words_matter(encoder: SmallT5) -> None:
    ids = torch.tensor([5, 6, 7, 8])
    states = encoder(ids, (4,)).states
    assert distance(encoder(ids.flip(0), (4,)).states.flip(0), states) > 1e-2
    assert distance(encoder(torch.tensor([9, 6, 7, 8]), (4,)).states[1:], states[1:]) > 1e-2


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_new_encoder_looks_nearby_and_to_one_side(per_layer: bool) -> None:
    """What its heads add to the logits, as transformers lays it out: heads by queries by keys."""
    encoder = SmallT5(vocabulary=9, dim=24, layers=2, heads=4, head_dim=8, ffn=32, bias_per_layer=per_layer)
    for block in encoder.encoder.block[: 2 if per_layer else 1]:
        attention = block.layer[0].SelfAttention
        middle = attention.compute_bias(41, 41)[0, :, 20]
        before, after = middle[:, :20].flip(1), middle[:, 21:]
        near = middle[:, 20:21]
        for side in (torch.cat([near, before], 1), torch.cat([near, after], 1)):
            assert (side.diff(dim=1) <= 0).all()
        sharper = middle.softmax(1)
        assert (sharper[::2, :20].sum(1) > 20 * sharper[::2, 21:].sum(1)).all()
        assert (sharper[1::2, 21:].sum(1) > 20 * sharper[1::2, :20].sum(1)).all()
        assert len(set(sharper[:, 20].tolist())) > 1


def test_a_new_encoder_knows_which_word_belongs_to_which() -> None:
    """The state of a noun tells of its own adjective more than of another's."""
    torch.manual_seed(0)
    encoder = SmallT5(vocabulary=50, dim=96, layers=2, heads=4, head_dim=24, ffn=96, bias_per_layer=False)
    said = torch.tensor([3, 10, 20, 4, 3, 11, 21, 1])  # a red cube and a blue ball
    own, other = said.clone(), said.clone()
    own[1], other[5] = 12, 12
    cube = [encoder(ids, (8,)).states[2].detach() for ids in (said, own, other)]
    assert distance(cube[1], cube[0]) > 3 * distance(cube[2], cube[0]) > 0


def test_dropout_is_off_in_training(encoder: SmallT5) -> None:
    ids = torch.arange(3, 20)
    states = encoder(ids, (17,)).states
    assert torch.equal(encoder.train()(ids, (17,)).states, states)
    encoder.eval()


def test_bf16_weights(encoder: SmallT5, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask's large numbers stay finite and shut in any type, and it has that of the queries, as GPUs need it."""
    ids, seen, attention = torch.arange(3, 20), [], F.scaled_dot_product_attention

    def watched(q: torch.Tensor, *args: Any, attn_mask: torch.Tensor, **how: Any) -> torch.Tensor:
        seen.append((q.dtype, attn_mask.dtype))
        return attention(q, *args, attn_mask=attn_mask, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    truth = encoder(ids, (9, 8)).states
    assert seen and set(seen) == {(torch.float32, torch.float32)}
    seen.clear()
    encoder.to(torch.bfloat16)
    encoder(ids, (9, 8))
    assert seen and set(seen) == {(torch.bfloat16, torch.bfloat16)}
    assert_equal(encoder(ids, (9, 8)).states.float(), truth, tolerance=0.1)
    encoder.to(torch.float32)


def test_scripts_without_blanks_are_split_into_letters(tmp_path: Path) -> None:
    """So that words are learnt: a new caption of known letters is known, whatever stands beside it."""
    captions = ["一只红色的狗在草地上跑。", "ボールが転がる", "แมวสีแดง", "a狗 runs 공이"]
    new = train_tokenizer(captions, tmp_path / "new.json", vocabulary=200)
    for caption in ("红狗跑", "ﾎﾞｰﾙ", "草地上的狗 a", "แดง"):
        assert new.unknown_words(caption) == [], caption
    assert len(new.words("红狗跑")) == 3 and [word for word, _ in new.words("สีแดง")] == ["สี", "แ", "ด", "ง"]
    assert new.unknown_words("공이 고양이") == ["고양이"], "Korean has blanks"


@pytest.mark.parametrize("caption", ["A large red ball's 5\" café, naïve — end.", "день, ночь", "über\tß  ÅÄ", "مرحبا"])
def test_scripts_with_blanks_are_split_as_ever(tmp_path: Path, caption: str) -> None:
    """The ids are those of a tokenizer from before letters were split."""
    captions = [*CAPTIONS, "a café, naïve", "день и ночь", "ß Å"]
    new = train_tokenizer(captions, tmp_path / "new.json", vocabulary=64)
    content = json.loads(new.path.read_text())
    letters, *before = content["pre_tokenizer"]["pretokenizers"]
    assert letters["type"] == "Split" and [one["type"] for one in before] == ["Whitespace"]
    content["pre_tokenizer"]["pretokenizers"] = before
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = Tokenizer(path=tmp_path / "old.json")
    assert old([caption, *captions])[0].tolist() == new([caption, *captions])[0].tolist()
    assert old.words(caption) == new.words(caption)


def test_an_older_tokenizer_learns_letters_where_it_knows_none(tmp_path: Path) -> None:
    content = json.loads(train_tokenizer(CAPTIONS, tmp_path / "new.json", vocabulary=64).path.read_text())
    del content["pre_tokenizer"]["pretokenizers"][0]
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = Tokenizer(path=tmp_path / "old.json")
    (tmp_path / "more.json").write_bytes(extended(old.path, ["红色的狗", "a red ball"], vocabulary=64))
    more = Tokenizer(path=tmp_path / "more.json")
    assert more.unknown_words("狗的红色") == [] and len(more) == len(old) + 4
    assert more(CAPTIONS)[0].tolist() == old(CAPTIONS)[0].tolist()
    content["model"]["vocab"]["红色的狗"] = len(old)  # a sentence that was learnt as one stays one
    (tmp_path / "old.json").write_text(json.dumps(content))
    (tmp_path / "more.json").write_bytes(extended(tmp_path / "old.json", ["红色的狗", "的"], vocabulary=64))
    assert Tokenizer(path=tmp_path / "more.json").words("红色的狗") == [("红色的狗", True)]
