from . import cuts as cuts
from . import plots as plots
from .analysis import analyze as analyze
from .analysis import compare as compare
from .cuts import intervene as intervene
from .cuts import plan_cuts as plan_cuts
from .errors import ThoughtLensError as ThoughtLensError
from .evaluation import decode_thoughts as decode_thoughts
from .evaluation import doctor as doctor
from .evaluation import evaluate as evaluate
from .models import load as load
from .problems import Problem as Problem
from .problems import ProblemSet as ProblemSet
from .problems import draw as draw
from .problems import load_set as load_set
from .problems import sample as sample
from .published import export_npy as export_npy
from .published import step_indexed as step_indexed
from .reasoning import reason as reason
from .reports import study as study
from .reports import write_figures as write_figures
from .reports import write_reports as write_reports
from .runs import extract as extract
from .runs import open_run as open_run

__version__: str
