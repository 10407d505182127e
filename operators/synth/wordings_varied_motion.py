"""More wordings of the rules about motion and time, for training; see `wordings_varied`."""

from __future__ import annotations

VARIED_MOTION: dict[str, tuple[str, ...]] = {
    "fastest": (
        "fastest {np}",
        "the {np} (that is|which is|being) the (fastest|quickest)",
        "the {np} (that covers the most distance|that gets along the fastest|that rushes|in a hurry)",
        "the {np} (with the greatest speed|that has the highest speed|that is the most rapid)",
        "of the {nps}, the (fastest|quickest)( one|)",
        "the (fastest|quickest) one (among|of) the {nps}",
        "the {np} all the others are slower than",
        "(which|what) {np} (has the greatest speed|goes at the highest speed|is quickest)?",
        "if it were a race, which {np} would win?",
        "the {np} that would win a race",
    ),
    "slowest": (
        "slowest {np}",
        "the {np} (that is|which is|being) the slowest",
        "the {np} (with the least speed|that has the lowest speed|that takes its time)",
        "of the {nps}, the slowest( one|)",
        "the slowest one (among|of) the {nps}",
        "the {np} all the others are faster than",
        "if it were a race, which {np} would come in last?",
        "the {np} that would lose a race",
    ),
    "still": (
        "(still|motionless|stationary|resting) {np}",
        "the {np} that (rests|does nothing|keeps its place|holds its place|is at a standstill|is parked|stays put)",
        "the {np} (resting|at a standstill|staying put|in rest)",
        "the {np} which (never moves|does not move|stays still|is still|is not in motion)",
        "the {np} whose place (does not change|never changes|stays the same)",
        "the {np} with no movement( at all|)",
        "one of the {nps} (does not move|stays still|rests)",
        "(is there|do you see) (a|some) {np} that does not move?",
        "which {np} (rests|is still|is at a standstill|stays put|has no motion)?",
        "the {np} that is (always|all the time) (in|at) the same (place|spot)",
    ),
    "moving": (
        "moving {np}",
        "the {np} (in motion|on the move|that travels|that does not stay still|that goes somewhere)",
        "the {np} whose place changes",
        "the {np} which (moves|is moving|is in motion)",
        "which {np} (travels|does not stay still|is on the move)?",
        "(is there|do you see) (a|some) {np} that moves?",
    ),
    "heading": (
        "{np} (moving|going|travelling|heading) {to}",
        "the {np} which (moves|goes|travels|is moving|is going|heads) {to}",
        "the {np} (gliding|floating|flying|running|passing|shifting|driving) {to}",
        "the {np} that (glides|floats|flies|runs|passes|shifts|drives|makes its way) {to}",
        "the {np} whose (path|way|motion|direction) is {to}",
        "the {np} (crossing|that crosses|that passes|going) {from_to}",
        "moving {to}, the {np}",
        "of the {nps}, the one (moving|going|that moves|that goes) {to}",
        "(is there|do you see) (a|some) {np} (that moves|moving|going) {to}?",
        "(which|what) {np} (glides|drifts|slides|passes|crosses|is travelling) {to}?",
        "the {np} with a motion {to}",
    ),
    "hidden": (
        "the {np} which (gets|is|becomes) (hidden|covered|occluded)( by another| behind another|)",
        (
            "the {np} (that ends up|that comes to be|being|becoming) (hidden|covered|occluded)( by another| behind "
            "another| for a time|)"
        ),
        (
            "the {np} that (cannot be seen|is not visible|is out of sight|is out of view) for a "
            "(while|moment|time), (behind|because of) another"
        ),
        "the {np} with another one in front of it( for a while| for a moment|)",
        "the {np} that (something|some other|some object|another object) (hides|covers|passes in front of|moves in front of)",
        "of the {nps}, the one (hidden|covered|that gets hidden|that gets covered)",
        "(is there|do you see) (a|some) {np} that (gets|is) (hidden|covered)?",
        "which {np} (ends up|is) behind (something|something else|another shape)( for a time|)?",
        "which {np} has another one in front of it?",
        "for a (while|moment), another one (hides|covers) this {np}",
    ),
    "goes_behind": (
        "the {np} which (goes|passes|moves|travels|slides) behind (another|another one|something)",
        (
            "the {np} that (travels|slides|runs|glides|makes its way|vanishes) behind (another|another "
            "one|something|some object)"
        ),
        "of the {nps}, the one (passing|going|that passes|that goes) behind (another|something)",
        "(is there|do you see) (a|some) {np} (passing|going) behind another?",
        "which {np} (slides|travels|vanishes) behind (another|another one|something)?",
    ),
    "hiding": (
        "the {np} which (hides|covers|occludes) (another|another one|something)",
        (
            "the {np} that (is in front of|stands in front of|gets in front of|comes in front of|blocks) "
            "(another|another one|something)"
        ),
        "the {np} (in front of another|that blocks the view of another)",
        "of the {nps}, the one (hiding|covering|that hides|that covers) another",
        "(is there|do you see) (a|some) {np} (hiding|covering) another?",
        "because of this {np}, another one cannot be seen",
    ),
    "hides": (
        (
            "(what|which one|which shape|which object|which thing) (hides|covers|occludes|blocks|is in front of) "
            "{ref}( for a moment| for a while| for a time|)?"
        ),
        (
            "the (one|object|shape|thing) (that|which) (hides|covers|occludes|blocks|is in front of) {ref}( for a "
            "moment| for a while|)"
        ),
        "the (one|object|shape|thing) (that|which) {ref} (goes|passes|hides|disappears|moves) behind",
        "the (one|object|shape|thing) (hiding|covering|in front of|that stands in front of) {ref}",
        "(what|which one) does {ref} (go|pass|hide|disappear) behind?",
        "because of this (object|shape|thing), {ref} cannot be seen( for a while| for a moment|)",
    ),
    "goes_in_front": (
        "the {np} which (goes|passes|moves|travels|slides) in front of (another|another one|something)",
        "the {np} that (travels|slides|runs|glides|makes its way|crosses) in front of (another|another one|something)",
        "of the {nps}, the one (passing|going|that passes) in front of another",
        "which {np} (slides|travels|crosses) in front of (another|something)?",
    ),
    "enters": (
        "the {np} which (enters|comes in|appears|arrives|shows up)( later| late|)",
        (
            "the {np} that (comes into view|comes in view|moves into view|slides in|slides into view|pops up|turns "
            "up|joins in)( later| late|)"
        ),
        "the {np} (coming into view|moving into view|sliding in|turning up|showing up|joining in)( later| late|)",
        "the {np} that (comes|slides|drifts|moves|travels) in from (outside|the edge|the border|the side|off screen)",
        "the {np} (absent|missing|out of view|not in view|not visible|not there) (at first|in the beginning|at the start)",
        "the {np} that is (absent|missing|out of view|not in view|outside) (at first|in the beginning|at the start)",
        "the new {np}( in the scene| in the picture|)",
        "the {np} that (was|is) not (in|part of) the first (frame|picture|frames)",
        "at first, this {np} (is not there|cannot be seen|is missing)",
        "of the {nps}, the one that (enters|comes in|comes into view|appears)( later|)",
        "(is there|do you see) (a|some) {np} that (comes in|enters|appears|comes into view)( later|)?",
        "which {np} (comes into view|slides in|turns up|pops up|joins in|is new)?",
        "which {np} is (absent|missing|out of view) (at first|in the beginning|at the start)?",
    ),
    "enters_last": (
        "the {np} (that comes into view|coming into view|to come into view|to show up) last",
        "the {np} which (enters|comes in|appears|arrives|shows up) last",
        "the (last|final) {np} (that enters|that appears|that comes in|entering)",
        "(which|what) {np} (is last to come in|comes into view last|is the final one to enter)?",
        "when this {np} comes in, all the others are there already",
    ),
    "leaves": (
        "the {np} which (leaves|goes away|disappears|exits|moves out)",
        "the {np} that (goes out of view|moves out of view|slides out|slides out of view|vanishes|departs|walks off|is lost)",
        "the {np} (going out of view|moving out of view|sliding out|vanishing|departing|exiting)",
        "the {np} that (goes|slides|drifts|moves|travels) out (over|across|past|through) the (edge|border|side)",
        "the {np} (absent|missing|out of view|not in view|no longer visible) (at|in) the end",
        "the {np} that is (absent|missing|out of view|outside) (at|in) the end",
        "the {np} that is not (in|part of) the last (frame|picture|frames)",
        "in the end, this {np} (is not there|cannot be seen|is missing|has gone)",
        "of the {nps}, the one that (leaves|goes away|goes out of view|disappears)",
        "(is there|do you see) (a|some) {np} that (leaves|goes away|disappears|goes out of view)?",
        "which {np} (goes out of view|slides out|vanishes|departs|has gone)?",
        "which {np} is (absent|missing|out of view) (at|in) the end?",
    ),
    "leaves_first": (
        "the {np} (that goes out of view|going out of view|to go out of view|to depart) first",
        "the {np} which (leaves|goes away|disappears|exits) first",
        "(which|what) {np} (is first to go|goes out of view first|vanishes first)?",
        "when this {np} leaves, all the others are still there",
    ),
    "grows": (
        "growing {np}",
        "the {np} which (grows|gets larger|gets bigger|becomes larger|becomes bigger)",
        "the {np} that (expands|swells|increases in size|gains size|is larger at the end|ends up larger)",
        "the {np} (expanding|swelling|increasing in size)",
        "the {np} whose size (grows|increases|goes up)",
        "(is there|do you see) (a|some) {np} that (grows|gets larger|gets bigger)?",
        "which {np} (expands|swells|increases in size|is larger at the end)?",
    ),
    "shrinks": (
        "shrinking {np}",
        "the {np} which (shrinks|gets smaller|becomes smaller)",
        "the {np} that (contracts|decreases in size|loses size|is smaller at the end|ends up smaller)",
        "the {np} (contracting|decreasing in size)",
        "the {np} whose size (shrinks|decreases|goes down)",
        "(is there|do you see) (a|some) {np} that (shrinks|gets smaller)?",
        "which {np} (contracts|decreases in size|is smaller at the end)?",
    ),
    "turns": (
        "(spinning|rotating|turning) {np}",
        "the {np} which (spins|rotates|turns)",
        "the {np} that (keeps turning|turns round|turns round and round|revolves|spins around|turns like a wheel)",
        "the {np} (revolving|turning round|spinning around)",
        "the {np} whose angle changes",
        "(is there|do you see) (a|some) {np} that (spins|rotates|turns)?",
        "which {np} (revolves|turns round|keeps turning|spins around)?",
    ),
    "bounces": (
        "the {np} which (goes|moves) (back and forth|there and back|to and fro)",
        (
            "the {np} that (bounces|swings|reverses|changes direction|turns round and comes back|returns|goes away "
            "and comes back)"
        ),
        "the {np} (bouncing|swinging|reversing|returning|changing direction)",
        "which {np} (bounces|swings|reverses|returns|changes direction)?",
        "(is there|do you see) (a|some) {np} that goes back and forth?",
    ),
    "circles": (
        "circling {np}",
        "the {np} which (moves|goes) (in a circle|in circles)",
        "the {np} that (circles|goes round|goes round and round|travels on a circle|orbits)",
        "the {np} (orbiting|going round|going round and round|circling around)",
        "which {np} (circles|goes round and round|orbits|travels on a circle)?",
        "(is there|do you see) (a|some) {np} that goes in a circle?",
    ),
    "stops": (
        "the {np} which (stops|comes to rest|comes to a stop|comes to a halt)",
        "the {np} that (halts|comes to a halt|ends its motion|stops on the way|brakes|stops after a while)",
        "the {np} (stopping|coming to a stop|coming to rest|coming to a halt)",
        "at first this {np} moves, but then it stops",
        "which {np} (halts|comes to a halt|stops on the way|ends its motion)?",
    ),
    "starts": (
        "the {np} which (starts moving|starts to move|begins to move)",
        "the {np} that (sets off|sets off later|begins moving|waits at first|waits and then moves|gets going)",
        "the {np} (starting to move|setting off|beginning to move)",
        "at first this {np} stays still, but then it moves",
        "which {np} (sets off|gets going|waits at first|begins moving)?",
    ),
}
