from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrshq.operators.batch import InputError
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.config import IMAGE_TOKEN
from vrshq.operators.models.vrs_hq.prompt import PromptTokenizer, conversation, expanded, normalize, question

SPECIALS = ("[SEG]", "[TAK]", "[seg]", "[tak]", "<image>", "<video>", "<s>", "</s>", "<unk>", "{sent}", "<0x0a>")


@cache
def tokenizer() -> PromptTokenizer:
    return open_bundle("untrained-tiny").prompt_tokenizer()


def test_normalize_lowers_and_collapses_white_space() -> None:
    assert normalize("  The\tRED \n car  ") == "the red car"


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u2003"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty instruction text; expected"):
        normalize(text)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(InputError, match="not valid Unicode"):
        normalize("the car \ud800")


def test_questions_are_asked_as_they_are_and_phrases_are_wrapped() -> None:
    assert "<video> \nwho wins? Please find it in" in question("who wins?")
    assert "<video> \nWhat is the red car in the Reference Video? Please" in question("the red car")


QUESTIONS = [
    "哪辆车先到？",
    "أي سيارة تصل أولا؟",
    "ποιο αυτοκίνητο φτάνει πρώτο\u037e",
    "ποιο αυτοκίνητο φτάνει πρώτο;",
    "ո՞ր մեքենան է առաջինը հասնում",
    "የትኛው መኪና ነው፧",
    "¿qué coche llega primero",
    "who wins⁇",
    "who wins?!",
    "who wins ❓\ufe0f",
    '"who wins?"',
    "“who wins?”",
    "„wer gewinnt?“",
    "«qui gagne ?»",
    "« qui gagne ? ».",
    "「どの車？」",
    "(who wins?)",
    "find out 'who wins?'.",
]


@pytest.mark.parametrize("sentence", QUESTIONS)
def test_a_question_of_any_script_is_one_where_the_rule_says_so(sentence: str) -> None:
    sentence = normalize(sentence)
    assert f"<video> \n{sentence} Please find it in" in question(sentence, "any_script")
    # the reference's rule, which stays the default
    assert f"<video> \nWhat is {sentence} in the Reference Video?" in question(sentence)
    tokens = tokenizer()
    assert tokens.encode(sentence, 1) != tokens.encode(sentence, 1, rule="any_script")


@pytest.mark.parametrize(
    "sentence",
    ["the red car", "the red car;", "a; b", "the car.", '"the car"', "...", ";", "a ?-shape", "红色的汽车。"],
)
def test_other_texts_are_no_questions_by_any_rule(sentence: str) -> None:
    assert f"\nWhat is {sentence} in" in question(sentence, "any_script")
    tokens = tokenizer()
    assert tokens.encode(sentence, 1) == tokens.encode(sentence, 1, rule="any_script")


def test_a_question_of_the_reference_is_one_by_both_rules() -> None:
    assert question("who wins?") == question("who wins?", "any_script")


def test_expansion_numbers_frames_from_zero() -> None:
    text = expanded("the red car", 2)
    assert "Reference Video: (0)<image>, (1)<image> \nWhat" in text
    assert "each frame is (0) [SEG], (1) [SEG], while" in text
    assert text.endswith("it is [TAK].</s>")


def test_positions_are_the_rows_before_seg_and_tak() -> None:
    tokens = tokenizer()
    prompt = tokens.encode("the red car", 3)
    rows: list[int] = []
    for token in prompt.input_ids:
        rows += [token] * (112 if token == IMAGE_TOKEN else 1)
    assert len(rows) == prompt.length
    assert [rows[position + 1] for position in prompt.seg_positions] == [tokens.specials["[SEG]"]] * 3
    assert rows[prompt.tak_position + 1] == tokens.specials["[TAK]"]
    assert rows[prompt.prefix_rows - 1] == IMAGE_TOKEN
    assert IMAGE_TOKEN not in rows[prompt.prefix_rows :]
    assert tokens.pieces.id_to_piece(rows[prompt.seg_positions[0]]) == ")"
    assert tokens.pieces.id_to_piece(rows[prompt.tak_position]).endswith("is")


def test_prefix_does_not_depend_on_the_instruction() -> None:
    one, other = (tokenizer().encode(text, 4) for text in ("the red car", "who wins?"))
    assert one.input_ids[: one.prefix_length] == other.input_ids[: other.prefix_length]


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("form", ["{}", "the {} car", "{0}{0} {0}", "is it {}?"])
def test_specials_in_the_instruction_stay_text(special: str, form: str) -> None:
    text = form.format(special)
    prompt, plain = (tokenizer().encode(sentence, 2) for sentence in (text, "the car" + "?" * text.endswith("?")))
    specials = {*tokenizer().specials.values(), tokenizer().pieces.bos_id(), tokenizer().pieces.unk_id(), IMAGE_TOKEN}
    kept = [token for token in prompt.input_ids if token in specials]
    assert kept == [token for token in plain.input_ids if token in specials]
    said = tokenizer().pieces.decode(
        [token for token in prompt.input_ids if 0 <= token < tokenizer().pieces.get_piece_size()]
    )
    assert text in said


@given(
    st.text(min_size=1, max_size=80) | st.lists(st.sampled_from((*SPECIALS, " ", "a", "?")), min_size=1).map("".join)
)
@settings(max_examples=150, deadline=None)
def test_any_text_keeps_the_structure(text: str) -> None:
    try:
        sentence = normalize(text)
    except InputError:
        return
    prompt = tokenizer().encode(sentence, 3)
    specials = tokenizer().specials
    counts = [
        prompt.input_ids.count(token) for token in (IMAGE_TOKEN, specials["[SEG]"], specials["[TAK]"], specials["</s>"])
    ]
    assert counts == [3, 3, 1, 1]
    assert sentence in conversation(sentence)


def test_the_tiny_bundles_sizes_are_those_of_its_tokenizers() -> None:
    bundle = open_bundle("untrained-tiny")
    language, clip = bundle.model.language, bundle.clip_tokenizer()
    pieces = tokenizer().pieces
    assert (pieces.unk_id(), pieces.bos_id(), pieces.eos_id()) == (0, 1, 2)
    assert (language.seg_token_id, language.tak_token_id) == (pieces.get_piece_size(), pieces.get_piece_size() + 1)
    assert language.vocab_size == language.tak_token_id + 1
    assert bundle.model.clip.text.vocab_size == max(clip.ids("")) + 1  # CLIP pools at the largest id
