from tests.analysis.conftest import make_attention, plant_attention

__all__ = ["make_attention", "plant_attention"]
