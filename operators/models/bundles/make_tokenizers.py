"""Writes the tokenizers of the tiny bundles: `python -m vrshq.operators.models.bundles.make_tokenizers FOLDER`.

Both tokenizers are trained on the sentences below, which were written for this project, so the bundles need no download. The
output is deterministic: a SentencePiece model with byte fallback in LLaMA's layout, and a CLIP byte-pair tokenizer in `clip/`.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import sentencepiece
from tokenizers import pre_tokenizers

from vrshq.operators.models.vrs_hq.prompt import conversation

VOCABULARY = 1000  # pieces of the SentencePiece model; the ids of [SEG] and [TAK] follow
MERGES = 600  # merges of the byte-pair tokenizer

COLOURS = "red green blue yellow orange purple pink brown black white grey dark light golden silver striped"
THINGS = (
    "circle square triangle star ring disc cross box ball shape person man woman child boy girl player rider driver "
    "dog cat horse cow sheep elephant giraffe zebra panda bear monkey rabbit bird duck parrot fish turtle lizard snake "
    "car truck bus train boat airplane bicycle motorbike skateboard surfboard scooter umbrella bag hat cup bottle "
    "chair table racket animal vehicle object toy group crowd pair one thing"
)
ACTIONS = (
    "moves to the left|moves to the right|moves up and then down|stays in place|stands still|turns around|rotates|"
    "grows larger over time|becomes smaller|appears first|appears last|disappears behind the other one|"
    "leaves the scene|enters from the side|is hidden for a while|runs away quickly|walks slowly across the road|"
    "jumps over the fence|eats grass near the tree|drinks water|follows the leader|passes in front of the camera|"
    "is being held by someone|is riding on the street|is playing with a ball|is sitting on the ground|is lying down|"
    "reacts first when the noise starts|reaches the finish line before the others|is most likely to win the race|"
    "bounces off the wall|changes its direction twice|crosses the middle of the picture|is closest to the camera"
)
PLACES = (
    "on the left|on the right|in the middle|at the top|at the bottom|in the background|in the foreground|"
    "in the upper left corner|in the lower right corner|next to the other|behind the fence|under the table|"
    "between the two others|near the edge of the frame|at the beginning of the video|at the end of the video"
)
OPENINGS = (
    "which|what|who is|where is|find|show|segment|track|please point out|can you tell me|which of the|how many|why does|"
    "could you identify|the first|the second|the last|the largest|the smallest|the fastest|the slowest|the only|another|"
    "something that is not there|none of them|both of them|all of the|each of the|neither|whichever|the same|a different"
)
MORE = (
    "Which animal would be the most dangerous for a small child, and why?",
    "If it begins to rain, what could the woman use to stay dry?",
    "The vehicle that has to stop because the traffic light just became red.",
    "Who seems to be the owner of the dog that is waiting patiently at the door?",
    "What has the highest speed when the video ends: the train, the truck or the bird?",
    "The player who scored, celebrated with his friends and was then replaced by somebody else.",
    "Something used for carrying things, not for sitting; it doesn't belong to them, it's theirs.",
    "I'm looking for the person who'll win; they've been ahead since 3 o'clock, and you're sure we'd agree.",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 20 100 (0) (1) (2) (3) (4) (5) (6) (7) (8) (9) (10) (11), (12)!",
)


def corpus() -> list[str]:
    """The training corpus: a few thousand short sentences, in a fixed order."""
    lines = list(MORE) * 20
    actions, places, openings = ACTIONS.split("|"), PLACES.split("|"), OPENINGS.split("|")
    for index, (colour, thing) in enumerate(itertools.product(COLOURS.split(), THINGS.split())):
        action, place = actions[index % len(actions)], places[index % len(places)]
        opening = openings[index % len(openings)]
        lines += [f"the {colour} {thing} that {action}", f"{opening} {colour} {thing} {place} {action}?"]
        lines += [f"{opening} {thing} {place}", f"{thing}s and {actions[(index * 7) % len(actions)]}"]
    return lines


def write_sentencepiece(path: Path) -> None:
    """Writes a byte-pair SentencePiece model in LLaMA's layout: ids 0 unknown, 1 begin, 2 end, then 256 bytes."""
    lines = corpus()
    prompts = [
        conversation(line).removesuffix("</s>").replace("[SEG]", "").replace("[TAK]", "") for line in lines[:200]
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*lines, *prompts]),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def write_clip(folder: Path) -> None:
    """Writes a byte-pair tokenizer in CLIP's layout.

    Its ids are 256 bytes, the same bytes with an end-of-word mark, the merges, <|startoftext|> and <|endoftext|>.
    """
    words = Counter(word for line in corpus() for word in line.lower().replace("?", " ?").replace(",", " ,").split())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces: dict[tuple[str, ...], int] = {
        (*word[:-1], word[-1] + "</w>"): n for word, n in words.items() if word.isascii()
    }
    merges: list[tuple[str, str]] = []
    while len(merges) < MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for piece, count in pieces.items():
            for pair in itertools.pairwise(piece):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {_merge(piece, best): count for piece, count in pieces.items()}
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    assert len(vocabulary) == len(tokens)
    _write_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    special = {"bos_token": "<|startoftext|>"} | dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77} | special
    )


def _merge(piece: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """A piece in which each occurrence of the pair of symbols is one symbol."""
    merged: list[str] = []
    for symbol in piece:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=0) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_sentencepiece(target / "tokenizer.model")
    write_clip(target / "clip")
