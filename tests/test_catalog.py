"""Looking up names: near matches, all known names, one plain line."""

import pytest

from deepsec_jax.catalog import Card, UnknownName, lookup

TABLE = {"fgsm": 1, "rfgsm": 2, "pgd": 3, "umifgsm": 4}


def message(name, table=TABLE) -> str:
    with pytest.raises(UnknownName) as refused:
        lookup(table, name, "attack")
    return str(refused.value)


def test_known_names():
    assert [lookup(TABLE, name, "attack") for name in TABLE] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "near"), [("fgms", "fgsm"), ("pgdd", "pgd"), ("mifgsm", "umifgsm"), ("fgsmm", "fgsm")]
)
def test_near_matches(name, near):
    text = message(name)
    assert f"unknown attack {name!r}. Did you mean " in text
    assert near in text.split("Did you mean ")[1].split("?")[0].split(" or ")


def test_far_names_get_no_guess():
    assert message("zzzz") == "unknown attack 'zzzz'. Known: fgsm, rfgsm, pgd, umifgsm."


def test_at_most_two_guesses_in_one_plain_line():
    guesses = message("fgsm1").split("Did you mean ")[1].split("?")[0].split(" or ")
    assert guesses[0] == "fgsm" and len(guesses) <= 2
    assert len(message("fgsm1").splitlines()) == 1 and not message("fgsm1").startswith('"')


def test_is_a_key_error_and_takes_any_name():
    with pytest.raises(KeyError):
        lookup(TABLE, "", "attack")
    assert "unknown attack None." in message(None)
    assert message("pgd", {}) == "unknown attack 'pgd'. Known: ."


def test_cards_are_plain_values():
    card = Card("PGD", "t", "r", "untargeted", "budget")
    assert card == Card("PGD", "t", "r", "untargeted", "budget") and hash(card) == hash(card)
