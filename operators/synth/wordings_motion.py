"""Wordings of the rules about motion and time, and of instructions that mean several objects; patterns as in `wordings`."""

from __future__ import annotations

from vrshq.operators.synth.wordings import Wordings

MOTION: dict[str, Wordings] = {
    "fastest": Wordings(
        train=(
            "the {np} that (moves|goes|travels|is moving|is going) (the |)fastest",
            "the {np} (moving|going|travelling) (the |)fastest",
            "the fastest {np}",
            "the fastest moving {np}",
            "the {np} (with the highest speed|that moves faster than the others|that is faster than all the others)",
            "the quickest {np}",
            "which {np} (moves|goes|travels|is moving|is) (the |)fastest?",
            "what (moves|is moving|goes) (the |)fastest?",
            "which of the {nps} (moves|is) (the |)fastest?",
            "the {np} that (moves|goes) (most quickly|at the highest speed)",
        ),
        unseen=(
            "which {np} is faster than all the others?",
            "which of the {nps} has the highest speed?",
            "no {np} moves faster than this one",
        ),
    ),
    "slowest": Wordings(
        train=(
            "the {np} that (moves|goes|travels|is moving|is going) (the |)slowest",
            "the {np} (moving|going|travelling) (the |)slowest",
            "the slowest {np}",
            "the slowest moving {np}",
            "the {np} (with the lowest speed|that moves slower than the others|that moves most slowly)",
            "which {np} (moves|goes|is moving|is) (the |)slowest?",
            "what (moves|is moving) (the |)slowest?",
        ),
        unseen=("which of the {nps} has the lowest speed?", "which {np} is slower than all the others?"),
    ),
    "still": Wordings(
        train=(
            "the {np} that (stays|is staying|stands|is standing|remains|keeps) still",
            "the {np} that (does not move|doesn't move|never moves|does not move at all)",
            "the {np} that is not moving",
            "the {np} (standing|staying|keeping) still",
            "the {np} (without motion|with no motion)",
            "the {np} that (stays|remains) (in place|in its place|where it is|in the same place|at rest)",
            "the (still|stationary|motionless|unmoving|resting) {np}",
            "the only {np} that (does not move|stays still|is not moving)",
            "this {np} does not move, but the others do",
            "which {np} (stays|stands|remains|keeps|is standing) still?",
            "which {np} (does not move|is not moving|never moves|stays in place)?",
            "what (stays still|does not move|is not moving)?",
        ),
        unseen=(
            "which {np} stays where it is?",
            "the {np} at rest",
            "all the others move, but this {np} does not",
            "which of the {nps} is (stationary|motionless)?",
        ),
    ),
    "moving": Wordings(
        train=(
            "the {np} that (moves|is moving|is in motion|changes its place)",
            "the moving {np}",
            "the only {np} that (moves|is moving)",
            "which {np} (moves|is moving|is in motion)?",
            "what (moves|is moving)?",
        ),
        unseen=("which {np} changes its place?", "all the others stay still, but this {np} does not"),
    ),
    "heading": Wordings(
        train=(
            "the {np} (moving|going|travelling|heading|sliding|drifting) {to}",
            "the {np} that (moves|goes|travels|is moving|is going|heads|slides|drifts) {to}",
            "the only {np} (moving|that moves|going) {to}",
            "the {np} that moves {from_to}",
            "the {to_adjective} moving {np}",
            "which {np} (moves|goes|is moving|is going|is heading|travels) {to}?",
            "what (moves|is moving|goes|is going) {to}?",
            "which {np} moves {from_to}?",
        ),
        unseen=(
            "the {np} on its way {from_to}",
            "which of the {nps} (moves|is going) {to}?",
            "it moves {to}: which {np} is it?",
        ),
    ),
    "hidden": Wordings(
        train=(
            "the {np} that (gets|is|becomes) (hidden|covered|occluded) (behind|by) another( one| object| shape|)",
            "the {np} (hidden|covered|occluded) (behind|by) (another|another one|another object|another shape|something else)",
            "the {np} that (gets|is) (hidden|covered|occluded)( for a while| for a moment| for some time|)",
            "the {np} that another one (hides|covers)( for a while| for a moment|)",
            "which {np} (gets|is|becomes) (hidden|covered|occluded) (behind|by) (another one|another object|another)?",
            "which {np} (gets|is) (hidden|covered|occluded)?",
            "which {np} is behind another( one| object|) for a while?",
            "which {np} does another one (hide|cover)?",
            "what (gets|is) hidden( behind another object| behind another one|)?",
        ),
        unseen=(
            "the {np} that something else (covers|hides) for a while",
            "which {np} is covered for a moment?",
            "which of the {nps} does another one (hide|cover)?",
            "the {np} behind another one",
        ),
    ),
    "goes_behind": Wordings(
        train=(
            "the {np} that (goes|passes|moves|disappears) behind (another|another one|another object|another shape)",
            "the {np} (going|passing|moving) behind (another|another one|another object|another shape|something else)",
            "which {np} (goes|passes|moves|disappears) behind (another one|another object|another)?",
            "what (goes|passes) behind (another one|another object|another)?",
        ),
        unseen=("which of the {nps} passes behind something else?", "the {np} on its way behind another one"),
    ),
    "hiding": Wordings(
        train=(
            "the {np} that (hides|covers|occludes) (another|another one|another object|another shape)",
            "the {np} (hiding|covering|occluding) (another|another one|another object)",
            "the {np} that another one (is hidden|gets hidden|hides) behind",
            "which {np} (hides|covers|occludes) (another one|another object|another)?",
        ),
        unseen=("which of the {nps} (hides|covers) another one?", "the {np} that covers something else"),
    ),
    "goes_in_front": Wordings(
        train=(
            "the {np} that (goes|passes|moves) in front of (another|another one|another object|another shape)",
            "the {np} (going|passing|moving) in front of (another|another one|another object)",
            "which {np} (goes|passes|moves) in front of (another one|another object|another)?",
        ),
        unseen=("which of the {nps} passes in front of something else?",),
    ),
    "enters": Wordings(
        train=(
            "the {np} that (enters|comes in|appears|arrives|shows up) (later|late|after the others|)",
            "the {np} that (enters|comes into|appears in|moves into) the (scene|video|picture|frame|view) (later|)",
            "the {np} (entering|coming in|appearing|arriving) (later|late|)",
            "the {np} (entering|coming into|moving into) the (scene|video|picture|frame|view)",
            "the {np} that is not (there|here|visible|in the picture) (at first|in the beginning|at the (beginning|start))",
            "the {np} that cannot be seen (at first|in the beginning|at the start)",
            "the {np} that was not there (at first|in the beginning|at the start)",
            "the {np} that joins (later|the others later)",
            "the {np} that (enters|appears|comes in|arrives) last",
            "the (last|late) {np} to (enter|appear|come in|arrive)",
            "which {np} (enters|comes in|appears|arrives|shows up) (later|late|last)?",
            "which {np} (enters|comes into) the (scene|video|picture|frame) (later|)?",
            "which {np} is not there (at first|in the beginning|at the start)?",
            "what (enters|comes in|appears|arrives) (later|last)?",
        ),
        unseen=(
            "which {np} joins the others (later|late)?",
            "the {np} you cannot see (at first|in the beginning)",
            "which of the {nps} (is late|comes later)?",
            "the {np} to come into the (scene|picture|frame)",
        ),
    ),
    "enters_last": Wordings(
        train=(
            "the {np} that (enters|comes in|appears|arrives|shows up) last",
            "the last {np} to (enter|appear|come in|arrive|enter the scene|enter the picture)",
            "the {np} (entering|coming in|appearing|arriving) last",
            "which {np} (enters|comes in|appears|arrives|shows up) last?",
            "what (enters|comes in|appears|arrives) last?",
            "the {np} that (enters|comes in|appears|arrives) after all the others",
        ),
        unseen=("which of the {nps} is the last to (enter|appear|come in)?",),
    ),
    "leaves": Wordings(
        train=(
            "the {np} that (leaves|goes away|disappears|exits|goes out|moves out|leaves early)",
            "the {np} that (leaves|exits|goes out of|moves out of) the (scene|video|picture|frame|view)",
            "the {np} (leaving|exiting|going out of|moving out of) the (scene|video|picture|frame|view)",
            "the {np} (leaving|going away|disappearing)",
            "the {np} that is (gone|not there|no longer there|not visible) (at|in) the end",
            "the {np} that does not stay (until|to) the end",
            "the {np} that cannot be seen (at|in) the end",
            "which {np} (leaves|goes away|disappears|exits|moves out)?",
            "which {np} (leaves|exits|moves out of) the (scene|video|picture|frame)?",
            "which {np} is (gone|no longer there) (at|in) the end?",
            "what (leaves|goes away|disappears)( the scene| the picture|)?",
        ),
        unseen=(
            "which {np} does not stay until the end?",
            "the {np} you cannot see (at|in) the end",
            "which of the {nps} (leaves|exits)?",
            "the {np} on its way out of the (picture|scene|frame)",
        ),
    ),
    "leaves_first": Wordings(
        train=(
            "the {np} that (leaves|goes away|disappears|exits) first",
            "the first {np} to (leave|exit|disappear|go away)",
            "the {np} (leaving|exiting|disappearing) first",
            "which {np} (leaves|goes away|disappears|exits) first?",
            "what (leaves|goes away|disappears) first?",
        ),
        unseen=("which of the {nps} is the first to (leave|disappear|exit)?",),
    ),
    "grows": Wordings(
        train=(
            "the {np} that (grows|gets larger|gets bigger|becomes larger|becomes bigger|is growing)",
            "the growing {np}",
            "which {np} (grows|gets larger|gets bigger|is growing)?",
            "the {np} (getting|becoming) (larger|bigger)",
        ),
        unseen=("what is getting (larger|bigger)?", "which of the {nps} grows?"),
    ),
    "shrinks": Wordings(
        train=(
            "the {np} that (shrinks|gets smaller|becomes smaller|is shrinking)",
            "the shrinking {np}",
            "which {np} (shrinks|gets smaller|is shrinking)?",
            "the {np} (getting|becoming) smaller",
        ),
        unseen=("what is getting smaller?", "which of the {nps} shrinks?"),
    ),
    "turns": Wordings(
        train=(
            "the {np} that (spins|rotates|turns|is spinning|is rotating|turns around itself)",
            "the (spinning|rotating|turning) {np}",
            "which {np} (spins|rotates|turns|is spinning|is rotating)?",
            "the {np} (spinning|rotating|turning) (around itself|)",
            "what (spins|rotates|is spinning)?",
        ),
        unseen=("which of the {nps} is (rotating|spinning) around itself?", "the {np} that is turning around itself"),
    ),
    "bounces": Wordings(
        train=(
            "the {np} that (goes|moves) (back and forth|there and back|to and fro)",
            "the {np} that (turns back|comes back|moves back|goes back)",
            "the {np} (going|moving) (back and forth|there and back)",
            "which {np} (goes|moves) back and forth?",
            "which {np} (turns back|comes back)?",
        ),
        unseen=("which of the {nps} goes there and back?", "the {np} that moves there and then back"),
    ),
    "circles": Wordings(
        train=(
            "the {np} (that moves|that goes|moving|going|travelling) (in a circle|in circles|around in a circle)",
            "the circling {np}",
            "which {np} (moves|goes) (in a circle|in circles|around in a circle)?",
            "the {np} whose (path|way) is a circle",
        ),
        unseen=("which of the {nps} goes around in circles?", "the {np} on a path in a circle"),
    ),
    "stops": Wordings(
        train=(
            "the {np} that (stops|stops moving|comes to rest|comes to a stop)",
            "the {np} that moves (first|at first) and then (stops|stays still|stands still)",
            "which {np} (stops|stops moving|comes to a stop)?",
            "the {np} that (moves only|only moves) (at first|in the beginning|at the start)",
        ),
        unseen=("which of the {nps} comes to rest?", "the {np} that is moving at first, then not"),
    ),
    "starts": Wordings(
        train=(
            "the {np} that (starts moving|starts to move|begins to move|starts moving later|starts late)",
            "the {np} that (stays|stands) still (first|at first) and then moves",
            "which {np} (starts moving|starts moving later|begins to move)?",
            "the {np} that (moves only|only moves) (at the end|in the end|later)",
        ),
        unseen=("which of the {nps} starts moving (late|later)?", "the {np} that is still at first, then moves"),
    ),
}

PLURAL: dict[str, Wordings] = {
    "colour": Wordings(
        train=(
            "(the|all|all the|all of the|both|) {nps}",
            "everything that is {colour}",
            "(all objects|all shapes|all things) that are {colour}",
        ),
        unseen=("every one of the {nps}",),
    ),
    "shape": Wordings(
        train=("(the|all|all the|all of the) {nps}", "every {shape}"), unseen=("every one of the {nps}",)
    ),
    "colour_shape": Wordings(
        train=("(the|all|all the|all of the) {nps}", "every {np}"), unseen=("every one of the {nps}",)
    ),
    "still": Wordings(
        train=(
            "(the|all|all the) {nps} that (stay still|do not move|are not moving)",
            "everything that (stays still|does not move)",
        ),
        unseen=("every one of the {nps} that stays still",),
    ),
    "moving": Wordings(
        train=("(the|all|all the) (moving {nps}|{nps} that move)", "everything that moves"),
        unseen=("every one of the {nps} that moves",),
    ),
    "heading": Wordings(
        train=("(the|all|all the) {nps} (that move|moving|going) {to}", "everything that moves {to}"),
        unseen=("every one of the {nps} that moves {to}",),
    ),
    "enters": Wordings(
        train=(
            "(the|all|all the) {nps} that (enter|appear|come in|are not there at first)",
            "everything that (enters|appears) later",
        ),
        unseen=("every one of the {nps} that (enters|appears) later",),
    ),
    "leaves": Wordings(
        train=("(the|all|all the) {nps} that (leave|go away|are gone in the end)", "everything that leaves"),
        unseen=("every one of the {nps} that leaves",),
    ),
    "rolls": Wordings(
        train=("(all |)the (shapes|objects|things|ones) that (would|could|can) roll", "everything that would roll"),
        unseen=("every one of the (shapes|objects|things) that would roll",),
    ),
    "no_corners": Wordings(
        train=("(all |)the (shapes|objects|things|ones) (with no|without|that have no) corners",),
        unseen=("every one of the (shapes|objects|things) without corners",),
    ),
}
