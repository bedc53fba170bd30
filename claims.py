"""What the four papers claim, and whether it is so on the tiny world: the rows of RESULTS.md's
first table, pure functions of what compare.py measured.

A claim is about two experiments that learned the same subjects, and an axis on which the first is
said to be ahead. Its value for a subject is the difference, and the rule is the same for all:

    reproduced        the 95 % interval of the mean over subjects (tables.py) lies above 0
    not reproduced    it lies below 0
    undecided         it contains 0

Where a paper says "as good as" or "nearly", the first may be behind by `margin`, which is said.
"""
from dataclasses import asdict, dataclass
from operator import itemgetter

import numpy as np

from tables import AXES, header, interval, time_to_reach


@dataclass(frozen=True)
class Claim:
    paper: str            # and where in it
    says: str
    first: str            # the experiment that is said to be ahead of
    second: str           # this one
    axis: str             # a key of VALUES
    margin: float = 0.0
    why: str = ""         # if it is not reproduced: what was tried, and what may differ here


def seconds_until(result, other):
    """Until a method is as alike as the other is at its end; all its time, if it never is."""
    looks = [(look["seconds"], look["likeness"]) for look in result["looks"]]
    seconds = time_to_reach(looks, other["looks"][-1]["likeness"])
    return result["seconds"] if seconds is None else seconds


def faster_than(times):
    """More than so many times as fast: above 0 if it is. Loading the model counts for both."""
    return lambda first, second: np.log10(seconds_until(second, first) / first["seconds"] / times)


def difference(axis):
    return lambda first, second: axis(first) - axis(second)


def both_differences(first, second):
    """Of attention and obedience, multiplied: above 0 where they have the same sign."""
    return ((first["attention"] - second["attention"])
            * (first["obedience"] - second["obedience"]))


VALUES = {  # of the first and the second experiment's result with a subject
    **{name: difference(axis) for name, axis in AXES.items()},
    "PRES": lambda first, second: second["pres"] - first["pres"],  # lower is better
    "DIV": difference(itemgetter("div")),
    "length of the word": difference(itemgetter("length")),
    "attention": difference(itemgetter("attention")),
    "attention x obedience": both_differences,
    "25 times faster (log10)": faster_than(25),
    "125 times faster (log10)": faster_than(125),
}

DB, TI, HDB, ADB = "DreamBooth", "Textual Inversion", "HyperDreamBooth", "AttnDreamBooth"
CLAIMS = (
    Claim(f"{DB}, table 1", "more alike than Textual Inversion", DB, TI, "likeness"),
    Claim(f"{DB}, table 1", "more obedient than Textual Inversion", DB, TI, "obedience"),
    Claim(f"{DB}, table 3", "prior preservation: the class stays what it was",
          DB, "DreamBooth without the prior", "PRES"),
    Claim(f"{DB}, table 3", "prior preservation: pictures differ more",
          DB, "DreamBooth without the prior", "DIV"),
    Claim(f"{DB}, table 3", "and costs only a little likeness",
          DB, "DreamBooth without the prior", "likeness", margin=0.1),
    Claim(f"{DB}, table 4", "the right noun beats a wrong one",
          DB, "DreamBooth, another class's noun", "likeness"),
    Claim(f"{DB}, table 4", "a wrong noun beats none",
          "DreamBooth, another class's noun", "DreamBooth, a noun that means nothing", "likeness"),
    Claim(f"{DB}, method", "all layers beat cross-attention alone",
          DB, "DreamBooth, cross-attention alone", "likeness"),
    Claim("public scripts", "training the text encoder helps",
          DB, "DreamBooth without the text encoder", "likeness"),
    Claim(f"{DB}, method", "a rare identifier beats a common word",
          DB, "DreamBooth, a common word", "product"),
    Claim(f"{DB}, limits", "too many steps cost obedience",
          DB, "DreamBooth, 900 steps", "obedience"),
    Claim(f"{TI}, figure 10", "a higher learning rate: more alike",
          TI, "Textual Inversion, a tenth of the rate", "likeness"),
    Claim(f"{TI}, figure 10", "a higher learning rate: less obedient",
          "Textual Inversion, a tenth of the rate", TI, "obedience"),
    Claim(f"{TI}, figure 10", "more vectors: more alike",
          "Textual Inversion, 4 vectors", TI, "likeness"),
    Claim(f"{TI}, figure 10", "more vectors: less obedient",
          TI, "Textual Inversion, 4 vectors", "obedience"),
    Claim(TI, "5 photos beat 1",
          "Textual Inversion, 5 photos", "Textual Inversion, 1 photo", "product"),
    Claim(TI, "5 photos beat 16",
          "Textual Inversion, 5 photos", "Textual Inversion, 16 photos", "product"),
    Claim("NeTI, CoRe", "the word grows longer with the rate, and less obedient (above)",
          TI, "Textual Inversion, a tenth of the rate", "length of the word"),
    Claim(f"{ADB}, comparison", "beats Textual Inversion followed by DreamBooth",
          ADB, "Textual Inversion, then DreamBooth", "product"),
    Claim(f"{ADB}, comparison", "beats DreamBooth", ADB, DB, "product"),
    Claim(f"{ADB}, ablations", "stage 1 is needed", ADB, f"{ADB} without stage 1", "product"),
    Claim(f"{ADB}, ablations", "stage 2 is needed", ADB, f"{ADB} without stage 2", "product"),
    Claim(f"{ADB}, ablations", "stage 3 is needed", ADB, f"{ADB} without stage 3", "product"),
    Claim(f"{ADB}, ablations", "the penalty is needed",
          ADB, f"{ADB} without the penalty", "product"),
    Claim(f"{ADB}, method", "the penalty brings the two words' attention together",
          ADB, f"{ADB} without the penalty", "attention"),
    Claim(f"{ADB}, method", "where they come nearer, obedience rises",
          ADB, f"{ADB} without the penalty", "attention x obedience"),
    Claim(f"{ADB}, its code", "the fast variant comes close",
          f"{ADB}, the fast variant", ADB, "product", margin=0.1),
)
CLAIMS_OF_FACES = (
    Claim(f"{HDB}, ablations", "the whole beats the finetuning alone, at equal steps",
          HDB, "finetuning alone", "likeness"),
    Claim(f"{HDB}, ablations", "the whole beats the network alone",
          HDB, "hypernetwork alone", "likeness"),
    Claim(f"{HDB}, method", "several guesses beat one",
          "hypernetwork alone", "hypernetwork alone, one guess", "likeness"),
    Claim(f"{HDB}, section 4.2", "the distance to each person's own theta helps",
          "hypernetwork alone, 1,024 people, two terms",
          "hypernetwork alone, 1,024 people, one term", "likeness"),
    Claim(f"{HDB}, method", "a LoRA of higher rank beats rank 1",
          HDB, "HyperDreamBooth, rank 1", "likeness"),
    Claim(f"{HDB}, abstract", "25 times faster than DreamBooth, at equal likeness",
          HDB, DB, "25 times faster (log10)"),
    Claim(f"{HDB}, abstract", "125 times faster than Textual Inversion, at equal likeness",
          HDB, TI, "125 times faster (log10)"),
    Claim(f"{HDB}, comparison", "more alike than DreamBooth", HDB, DB, "likeness"),
    Claim(f"{HDB}, comparison", "more alike than Textual Inversion", HDB, TI, "likeness"),
    Claim(f"{HDB}, comparison", "not worse than LoRA DreamBooth",
          HDB, "LoRA DreamBooth", "product", margin=0.1),
)


def decide(claim, results, rng):
    """The mean difference, its interval, and the verdict. results {subject: {experiment: ...}}"""
    value = VALUES[claim.axis]
    differences = [value(of[claim.first], of[claim.second]) for of in results.values()]
    mean, low, high = interval(differences, rng)
    if low > -claim.margin:
        verdict = "reproduced"
    else:
        verdict = "not reproduced" if high < -claim.margin else "undecided"
    return mean, low, high, verdict


def table_of_claims(claims, results):
    """In Markdown, and as a list of {"says", "difference", "low", "high", "verdict", ...}."""
    rng, rows = np.random.default_rng(0), []
    lines = header(["where", "what it says", "measured", f"{len(results)} subjects", "verdict",
                    "why"])
    for claim in claims:
        mean, low, high, verdict = decide(claim, results, rng)
        rows.append(asdict(claim) | {"subjects": len(results), "difference": mean, "low": low,
                                     "high": high, "verdict": verdict})
        measured = f"{claim.axis}: {claim.first} - {claim.second}"
        if claim.margin:
            measured += f", behind by {claim.margin} at most"
        lines.append(f"| {claim.paper} | {claim.says} | {measured} | {mean:+.2f} ({low:+.2f} to "
                     f"{high:+.2f}) | **{verdict}** | {claim.why} |")
    return "\n".join(lines), rows
