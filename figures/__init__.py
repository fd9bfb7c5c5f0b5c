"""The paper's figures: tidy table in, Axes out. Never recomputes, never imports torch."""
