"""The small world of the skills: names, things and numbers, none of them from any data set.

In: nothing. Out: tuples of words. `NAMES` are short first names, `THINGS` short nouns with a plain plural, and
`NUMBER_WORDS` says 0 to 20 in the languages that an answer may be asked in. Written for this project.
"""

__all__ = ["NAMES", "NUMBER_WORDS", "THINGS"]

NAMES: tuple[str, ...] = (
    "Anna", "Ben", "Carl", "Dora", "Emma", "Fred", "Gina", "Hugo", "Ida", "Jack",
    "Kate", "Leo", "Mary", "Nick", "Olga", "Paul", "Rosa", "Sam", "Tina", "Will",
)  # fmt: skip

THINGS: tuple[str, ...] = (
    "apple", "ball", "bell", "bird", "boat", "book", "box", "cap", "car", "cat",
    "chair", "coat", "coin", "cow", "cup", "desk", "dog", "door", "duck", "egg",
    "fan", "flag", "fork", "frog", "goat", "hat", "horse", "key", "lamp", "leaf",
    "map", "nut", "pan", "pen", "pig", "plate", "ring", "rope", "seed", "ship",
    "shoe", "sock", "spoon", "star", "stone", "table", "tent", "tree", "wheel", "window",
)  # fmt: skip

NUMBER_WORDS: dict[str, tuple[str, ...]] = {
    "english": (
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
    ),
    "spanish": (
        "cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez",
        "once", "doce", "trece", "catorce", "quince", "dieciséis", "diecisiete", "dieciocho", "diecinueve", "veinte",
    ),
}  # fmt: skip
