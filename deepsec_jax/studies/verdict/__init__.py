"""How robust is one model: accuracy, clean and under attack, and the smallest change that fools it."""
