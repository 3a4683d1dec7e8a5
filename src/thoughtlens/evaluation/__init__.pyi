from .damaged_thoughts import CONDITIONS as CONDITIONS
from .damaged_thoughts import Solved as Solved
from .damaged_thoughts import evaluate as evaluate
from .diagnostics import Check as Check
from .diagnostics import doctor as doctor
from .lens import decode_thoughts as decode_thoughts
from .lens import question_attention as question_attention
from .lens import results_read as results_read
