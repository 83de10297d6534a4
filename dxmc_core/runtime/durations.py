"""Lengths of time as a person says them."""


def duration(seconds: float) -> str:
    """2.34 -> "2.3 s", 75 -> "1 min 15 s", 7322 -> "2 h 2 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
