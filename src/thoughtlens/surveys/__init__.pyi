from .survey_comparison import Cell as Cell
from .survey_comparison import compare_cells as compare_cells
from .survey_file import SurveyPlan as SurveyPlan
from .survey_file import read_survey as read_survey
from .survey_runs import estimate_survey as estimate_survey
from .survey_runs import survey as survey
from .survey_runs import survey_status as survey_status
