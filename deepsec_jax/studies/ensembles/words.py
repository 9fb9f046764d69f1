"""Texts above the tables of the ensembles study."""

REPLAYED = (
    "Images that fool the undefended model, replayed on ensembles, as in the paper. Random ensembles are "
    "averaged over the draws. Such images need not fool another network: this measures transfer and is no "
    "security claim."
)
WHOLE = (
    "The share of all n images that stay right if the same attack is made on the undefended model, on each "
    "member alone, and on the ensemble itself: through the mean of the members' probabilities, and through "
    "the mean of their logits, of surrogates where a member hides its gradient. Worst is the worst of these, "
    "image by image."
)
WORST = (
    "The share of images that survive every attack within the radius, taken image by image, for each "
    "ensemble and for each defense alone. A defense alone faces the images made on all defenses. A row with "
    "a finding that says so may not be called robust, and is struck through."
)
