from .batch import ROOM as ROOM
from .batch import Reading as Reading
from .batch import roomy_cache as roomy_cache
from .loop import decode as decode
from .loop import reason as reason
from .loop import tell as tell
from .loop import think as think
from .loop import write_out as write_out
