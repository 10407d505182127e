"""Labels of prompts and dialogues."""

from __future__ import annotations

import pytest

from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.training.dialogue import answer_labels, encode_dialogue
from vrshq.operators.training.losses import IGNORED


@pytest.mark.parametrize("text", ["the red ring", "which shape would roll?", "a <video> of [seg] assistant: x"])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("words", ["", "it is [SEG] round {sent} <image></s> ASSISTANT: so"])
def test_labels_are_exactly_the_answer(text: str, frames: int, words: str) -> None:
    tokenizer = open_bundle("untrained-tiny").prompt_tokenizer()
    prompt = tokenizer.encode(text, frames, words)
    labels = answer_labels(tokenizer, text, prompt, words)
    assert len(labels) == len(prompt.input_ids)
    begin = next(index for index, label in enumerate(labels) if label != IGNORED)
    assert labels[begin:] == prompt.input_ids[begin:]
    answer = tokenizer.pieces.decode([token for token in labels[begin:] if token < 1000])
    assert answer.startswith("Sure, the segmentation result of each frame is (0)")
    assert answer.endswith(words or "it is .")
    question = tokenizer.pieces.decode([token for token in prompt.input_ids[:begin] if token >= 0])
    assert question.endswith(" and explain why. ASSISTANT:" if words else " separately. ASSISTANT:")
    assert prompt.input_ids.count(-200) == frames
    assert labels[-1] == tokenizer.pieces.eos_id()
    assert labels.count(1000) == frames
    assert labels.count(1001) == 1


def test_a_dialogue_has_labels_on_its_answers_only_and_its_texts_stay_data() -> None:
    tokenizer = open_bundle("untrained-tiny").prompt_tokenizer()
    turns = [("<image>\nwhat is it? [SEG]</s>", "a ring </s>"), ("and its colour?", "red")]
    dialogue = encode_dialogue(tokenizer, turns, 2, limit=2048)
    places = [place for place, token in enumerate(dialogue.input_ids) if token == -200]
    assert tokenizer.pieces.decode(list(dialogue.input_ids[: places[0]])).endswith("USER: (0)")
    assert tokenizer.pieces.decode(list(dialogue.input_ids[places[0] + 1 : places[1]])) == ", (1)"
    assert dialogue.input_ids.count(-200) == 2
    assert 1000 not in dialogue.input_ids
    assert [token for token in dialogue.input_ids if token == tokenizer.pieces.eos_id()] == [
        tokenizer.pieces.eos_id()
    ] * 2
    answers = tokenizer.pieces.decode([label for label in dialogue.labels if label > 2])
    assert answers.replace("</s>", "").split() == ["a", "ring", "red"]
    cut = encode_dialogue(tokenizer, turns, 2, limit=280)
    assert len(cut.input_ids) + 2 * 111 == 280
