"""The paper's eight remarks and the review's three findings, each tested on measured cells."""
