"""The faults: what somebody could break one evening, each as an exact change of the source text."""

from __future__ import annotations

from dataclasses import dataclass

# PaDiM takes a second, and every part of the harness is behind it.
PADIM = ("padim",)
ALL = ("ulsad", "dfr", *PADIM)


@dataclass(frozen=True)
class Edit:
    """One change of one file.

    Attributes:
        file: below the repository's root.
        old: text that the file holds exactly once.
        new: what stands there instead.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """A fault and what `bench check` must say of it.

    Attributes:
        name: in a few words.
        edits: its changes.
        methods: run with the fault.
        answers: of which one is expected with `--exact`; of two, both would be right.
        evidence: text that a reason must hold, in lower case.
    """

    name: str
    edits: tuple[Edit, ...]
    methods: tuple[str, ...]
    answers: tuple[str, ...]
    evidence: str


_WORSE, _CHANGED, _COST = "score worse", "score changed", "speed or memory worse"
_APART, _NOTHING = "not comparable", "nothing measured"
_MOVED = "seeds moved by up to"
_TRAINED_ON = "    learned = Images(train, roles.train)\n"

FAULTS = (
    Fault(
        "cosine term dropped from ULSAD's distance",
        (
            Edit(
                "methods/branches.py",
                "    return l_v + weight * (1 - F.cosine_similarity(a, b, dim=1))\n",
                "    return l_v\n",
            ),
        ),
        ("ulsad",),
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "DFR's BatchNorm in training mode at prediction",
        (
            Edit(
                "methods/dfr.py",
                "        self.autoencoder.eval()\n        parts = ",
                "        self.autoencoder.train()\n        parts = ",
            ),
        ),
        ("dfr",),
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "maps not blurred",
        (Edit("methods/blur.py", "    return y[:, 0]\n", "    return maps\n"),),
        PADIM,
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "ULSAD's quantiles swapped",
        (
            Edit(
                "methods/branches.py",
                "    levels = torch.tensor(at, device=pixels.device)\n",
                "    levels = torch.tensor(at[::-1], device=pixels.device)\n",
            ),
        ),
        ("ulsad",),
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "masks shifted by 4 pixels",
        (
            Edit(
                "harness/data/decoding.py",
                "    return _middle(united, fit.size)\n",
                "    return np.roll(_middle(united, fit.size), 4, axis=1)\n",
            ),
        ),
        PADIM,
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "AUPRO over 4-connected regions",
        (Edit("harness/metrics/exact.py", "connectivity=8)", "connectivity=4)"),),
        PADIM,
        (_CHANGED,),
        "the metric changed, not the maps",
    ),
    Fault(
        "test images trained on",
        (
            Edit(
                "harness/data/image_roles.py",
                _TRAINED_ON,
                "    learned = Images([*(train[i] for i in roles.train), *(test[i] for i in roles.test)])\n",
            ),
        ),
        PADIM,
        (_APART,),
        "number of images: train",
    ),
    Fault(
        "normal test images trained on in the place of training images",
        (
            Edit(
                "harness/data/image_roles.py",
                _TRAINED_ON,
                "    n = len(roles.train) // 2\n"
                "    rows = roles.train[n:]\n"
                "    learned = Images([*(test[i] for i in range(n)), *(train[i] for i in rows)])\n",
            ),
        ),
        PADIM,
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "ImageNet's mean and deviation not used",
        (
            Edit(
                "harness/registry/weights.py",
                'float] = tuple(config["mean"])\n',
                "float] = (0.0, 0.0, 0.0)\n",
            ),
            Edit(
                "harness/registry/weights.py", 'float] = tuple(config["std"])\n', "float] = (1.0, 1.0, 1.0)\n"
            ),
        ),
        PADIM,
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "colour channels swapped",
        (
            Edit(
                "harness/data/decoding.py",
                "image.resize((side, side), Image.Resampling.BILINEAR)), fit.size)",
                "image.resize((side, side), Image.Resampling.BILINEAR))[..., ::-1], fit.size)",
            ),
        ),
        PADIM,
        (_WORSE, _CHANGED),
        _MOVED,
    ),
    Fault(
        "seed ignored",
        (
            Edit("harness/execution/run.py", "seed_everything(spec.seed)", "seed_everything(0)"),
            Edit(
                "harness/execution/run.py",
                "training.run(data.task.spec.seed, checkpoint)",
                "training.run(0, checkpoint)",
            ),
            Edit(
                "harness/execution/run.py",
                "spec.image_size, spec.seed, scratch",
                "spec.image_size, 0, scratch",
            ),
        ),
        PADIM,
        (_WORSE, _CHANGED),
        "is the seed used?",
    ),
    Fault(
        "a category skipped without a word",
        (
            Edit(
                "harness/planning/plan.py",
                "        for category in names:\n            if suite.categories and",
                "        for category in names[:-1]:\n            if suite.categories and",
            ),
        ),
        PADIM,
        (_APART, _NOTHING),
        "no run of this cell is in the results",
    ),
    Fault(
        "prediction twice as slow",
        (
            Edit(
                "harness/execution/scoring.py",
                "            prediction = self.method.predict(batch)\n",
                "            self.method.predict(batch)\n"
                "            prediction = self.method.predict(batch)\n",
            ),
        ),
        PADIM,
        (_COST,),
        "predict",
    ),
    Fault(
        "prediction keeps 32 MiB for every image",
        (
            Edit(
                "harness/execution/scoring.py",
                "            prediction = self.method.predict(batch)\n",
                "            prediction = self.method.predict(batch)\n"
                '            kept = getattr(self.method, "kept", [])\n'
                "            self.method.kept = [*kept, torch.ones(len(batch), 2**23)]\n",
            ),
        ),
        PADIM,
        (_COST,),
        "memory host",
    ),
)
