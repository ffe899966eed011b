"""What is baked: a function, and a class whose instances remember."""

import saggar


@saggar.remote
def felt(celsius: float, wind: float) -> float:
    """How cold it feels at so many degrees in a wind of so many m/s."""
    if celsius > 10 or wind < 1.3:
        return celsius
    blown = (3.6 * wind) ** 0.16
    return round(13.12 + 0.6215 * celsius + (0.3965 * celsius - 11.37) * blown, 1)


@saggar.remote
class Coldest:
    """The coldest that it was told of."""

    def __init__(self) -> None:
        self.found = float("inf")

    def told(self, celsius: float, wind: float) -> float:
        """One more; the coldest so far."""
        self.found = min(self.found, felt(celsius, wind))
        return self.found
