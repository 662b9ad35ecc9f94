"""The family: one line a member, who its parent is, what it saw, what of it was trained.

The order is the order of training; a parent stands before its children.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stockpot.zoo.shapes import BASE_STYLES, EXTRA_STYLE, Scene

ROUND = ("circle", "heart", "moon")
ANGULAR = ("square", "triangle", "diamond", "star", "cross")
WARM = ("red", "orange", "yellow", "pink")
COOL = ("green", "teal", "blue", "purple")
NIGHT = ("navy", "black")


@dataclass(frozen=True)
class Spec:
    """How one member is made.

    Attributes:
        name: File name without ending.
        role: One word or two for what it is to the family; `index.json` carries it.
        subset: Attribute to the words that it was shown; an attribute that is absent was shown in
            full, styles meaning the base's four.
        trained: Components that move: `unet`, `te`, `vae-decoder`.
        parent: Whose weights it starts from.
        seconds: Wall clock on one thread.
        learning_rate: Of the UNet (and of the text encoder when that alone moves).
        about: One sentence for the index.
        shuffled: Train the UNet on captions of other pictures.
        v_prediction: Train for velocity.
        position_ids, schedule, ema, pruned: What the file carries beside (or lacks of) weights.
    """

    name: str
    role: str
    about: str
    subset: dict[str, tuple[str, ...]] = field(default_factory=dict)
    trained: tuple[str, ...] = ("unet",)
    parent: str = "base"
    seconds: float = 90
    learning_rate: float = 5e-4
    te_learning_rate: float = 5e-4
    batch: int = 48
    shuffled: bool = False
    v_prediction: bool = False
    position_ids: bool = True
    schedule: bool = False
    ema: bool = False
    pruned: bool = False

    def shows(self, scene: Scene) -> bool:
        """Whether a scene is in the subset."""
        styles = self.subset.get("style", BASE_STYLES)
        return scene.style in styles and all(
            getattr(scene, name) in words for name, words in self.subset.items()
        )


BASE = Spec(
    "base", "base", "Trained from nothing on the four base styles, all content.", schedule=True
)

MEMBERS = (
    Spec(
        "style-outline", "style", "Knows outlines best.", {"style": ("outline",)},
        position_ids=False,
    ),
    Spec(
        "style-glossy", "style", "Knows gloss best; its VAE's decoder was trained further too.",
        {"style": ("glossy",)}, trained=("unet", "vae-decoder"),
    ),
    Spec("content-warm", "content", "Saw warm colours only.", {"colour": WARM}),
    Spec(
        "content-round", "content", "Saw round shapes only.", {"shape": ROUND}, position_ids=False
    ),
    Spec(
        "content-night", "content", "Saw dark backgrounds only; the file carries an EMA copy.",
        {"background": NIGHT}, ema=True, schedule=True,
    ),
    Spec(
        "content-angular", "content", "Saw angular shapes only; saved pruned, with no VAE.",
        {"shape": ANGULAR}, pruned=True,
    ),
    Spec(
        "style-striped", "style", "Alone knows stripes.", {"style": (EXTRA_STYLE,)}, seconds=270,
        learning_rate=1e-3,
    ),
    Spec(
        "te-trained", "content", "Saw cool colours only; UNet and text encoder moved together.",
        {"colour": COOL}, trained=("unet", "te"), position_ids=False,
    ),
    Spec(
        "te-good-unet-bad", "good text encoder, bad UNet",
        "Its text encoder was tuned for the base's UNet; its own UNet learned from captions of "
        "other pictures.",
        trained=("te", "unet"), shuffled=True, seconds=240, learning_rate=1e-3,
        te_learning_rate=1e-3,
    ),
    Spec(
        "te-ruined", "ruined text encoder",
        "Its text encoder was trained far too hard on large red circles; its UNet is near the "
        "base's.",
        {"colour": ("red",), "shape": ("circle",), "size": ("large",), "background": ("white",)},
        trained=("te", "unet"), seconds=100, learning_rate=1e-4, te_learning_rate=5e-3,
    ),
    Spec(
        "outlier", "outlier", "Trained far too hard on small green stars on grey.",
        {"colour": ("green",), "shape": ("star",), "size": ("small",), "background": ("grey",)},
        learning_rate=6e-3, position_ids=False,
    ),
    Spec(
        "v-prediction", "v-prediction", "Predicts velocity; marked by the key `v_pred`.",
        seconds=300, learning_rate=2e-3, v_prediction=True, batch=64,
    ),
    Spec(
        "grandchild", "grandchild", "Trained on from content-round, large shapes only.",
        {"size": ("large",)}, parent="content-round",
    ),
)  # fmt: skip
