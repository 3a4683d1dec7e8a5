import pytest
from tests.training.conftest import STAGE
from typer.testing import CliRunner

from thoughtlens.cli import app
from thoughtlens.errors import RecipeError
from thoughtlens.training import (
    NewBase,
    Options,
    PretrainedBase,
    ProblemSource,
    bundled_recipes,
    read_recipe,
    with_options,
)

NEW = '[base]\ntype = "gpt2"\nvocabulary = 400\n[base.config]\nn_embd = 8\n'
OLD = '[base]\npretrained = "gpt2"\n'
ONE = f'[[stages]]\nname = "one"\nsteps = 2\nrate = 1e-3\n{STAGE}\n'


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return read_recipe(path)

    return read_text


WRONG = {
    "not TOML": ("name = ", "is not valid TOML"),
    "unknown field": (f'name = "x"\ncolour = 1\n{NEW}{ONE}', r"names \['colour'\], which is unknown; known are: name,"),
    "unknown field of a stage": (f'name = "x"\n{NEW}{ONE}rat = 1', r"a stage of .* names \['rat'\]"),
    "unknown field of the base": (f'name = "x"\n[base]\npretrained = "a"\nvocabulary = 3\n{ONE}', r"\['vocabulary'\]"),
    "unknown field of LoRA": (f'name = "x"\n{OLD}[lora]\nr = 3\n{ONE}', r"\[lora\] of .* names \['r'\]"),
    "unknown term": (
        f'name = "x"\n{NEW}[[stages]]\nname="s"\nsteps=1\nrate=1e-3\nweights={{kl=1.0}}',
        r"\['kl'\]; the terms",
    ),
    "no stages": (f'name = "x"\n{NEW}', r"has no \[\[stages\]\]"),
    "no name": (f"{NEW}{ONE}", "is incomplete .*'name'"),
    "no base": (f'name = "x"\n{ONE}', "is incomplete .*'type'"),
    "nothing learnt": (f'name = "x"\n{NEW}[[stages]]\nname="s"\nsteps=1\nrate=1e-3', "learns nothing"),
    "distils from nobody": (
        f'name = "x"\n{NEW}[[stages]]\nname="s"\nsteps=1\nrate=1e-3\nweights={{student=1.0, distillation=1.0}}',
        "distils without teacher or student",
    ),
    "neither steps nor epochs": (
        f'name = "x"\n{NEW}[[stages]]\nname="s"\nrate=1e-3\n{STAGE}',
        "either steps or epochs",
    ),
    "steps and epochs": (f'name = "x"\n{NEW}{ONE}epochs = 1', "either steps or epochs"),
    "epochs without problems": (
        f'name = "x"\n{NEW}[[stages]]\nname="s"\nepochs=1\nrate=1e-3\n{STAGE}',
        "generated problems have no end",
    ),
    "LoRA on a new base": (f'name = "x"\n{NEW}[lora]\n{ONE}', "name a pretrained one"),
    "a word for a number": (
        f'name = "x"\nseed = "eleven"\n{NEW}{ONE}',
        "sets seed to 'eleven'; give it a value of type int",
    ),
    "a number for a word": (f'name = "x"\n{NEW}{ONE}schedule = 3', "sets schedule to 3; .* type str"),
    "swaps alone": (f'name = "x"\n{NEW}{ONE}batch = 1\nscrambled = true', "batches of one"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_recipe_is_one_sentence(case, read):
    text, message = WRONG[case]
    with pytest.raises(RecipeError, match=message) as caught:
        read(text)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_unknown_name_lists_the_bundled_ones(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe 'tiny-gpt3'; name a TOML file or one of: .*tiny-gpt2"):
        read_recipe("tiny-gpt3")
    with pytest.raises(RecipeError, match="no recipe"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipe_is_read_and_named_as_its_file(name):
    assert read_recipe(name).name == name


def test_unset_settings_are_those_of_the_first_recipes(read):
    (stage,) = read(f'name = "x"\n{NEW}{ONE}').stages
    assert (stage.batch, stage.accumulation, stage.warmup, stage.floor) == (32, 1, 100, 0.03)
    assert (stage.weight_decay, stage.betas, stage.clip) == (0.01, (0.9, 0.98), 1.0)


OFFICIAL = {
    "codi-gpt2-gsm8k": ("gpt2", 768, 1000, 40, 64, 2, 3e-3, 1.0),
    "codi-llama1b-gsm8k": ("meta-llama/Llama-3.2-1B-Instruct", 2048, 200, 10, 32, 4, 8e-4, 20.0),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_settings(name):
    """github.com/zhenyi4/codi, scripts/train_{gpt2,llama1b}_gsm8k-aug.sh."""
    base, inner, most_tokens, epochs, batch, accumulation, rate, beta = OFFICIAL[name]
    recipe = read_recipe(name)
    (stage,) = recipe.stages
    assert recipe.base == PretrainedBase(base, inner=inner)
    assert (recipe.seed, recipe.thoughts, recipe.bf16, recipe.after_steps) == (11, 6, True, "")
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout) == (128, 32, 0.1)
    assert recipe.problems == ProblemSource("gsm8k_aug", "train", most_tokens=most_tokens, numbers_only=True)
    assert (stage.epochs, stage.batch, stage.accumulation, stage.rate) == (epochs, batch, accumulation, rate)
    assert (stage.schedule, stage.floor, stage.warmup, stage.clip) == ("cosine", 0, 0.03, 2)
    assert (stage.weight_decay, stage.betas) == (0.1, (0.9, 0.999))
    assert stage.weights == {"teacher": 1, "student": 1, "distillation": beta}


def test_command_line_names_another_base_and_other_problems(read):
    recipe = read(f'name = "x"\n{OLD}revision = "v1"\n[problems]\nname = "gsm8k_aug"\nsplit = "train"\n{ONE}')
    changed = with_options(recipe, Options("folder", "set.jsonl", seed=7))
    assert changed.base == PretrainedBase("folder")
    assert changed.problems == ProblemSource("set.jsonl")
    assert with_options(recipe, Options()) == recipe


def test_base_and_problems_of_a_recipe_that_makes_its_own_stay(read):
    recipe = read(f'name = "x"\n{NEW}{ONE}')
    assert isinstance(recipe.base, NewBase)
    with pytest.raises(RecipeError, match="makes its base itself; leave --base out"):
        with_options(recipe, Options(base="gpt2"))
    with pytest.raises(RecipeError, match="generates its problems; leave --problems out"):
        with_options(recipe, Options(problems="gsm8k"))


def test_mistake_on_the_command_line_is_one_sentence(tmp_path):
    done = CliRunner().invoke(app, ["train", "tiny-gpt2", "--out", str(tmp_path / "out"), "--base", "gpt2"])
    assert done.exit_code == 2
    assert "tiny-gpt2 makes its base itself; leave --base out" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ('name = "../../a"', "sets name to"),
        ("batch = 0", "sets batch to 0"),
        ('schedule = "weekly"', "give it cosine or constant_with_warmup"),
        ("betas = [0.9]", "two numbers below 1"),
        ("supervised = [9]", "thoughts from 1 to 6"),
        ("n_steps = { 9 = 1.0 }", "counts from 2 to 6"),
        ("n_steps = 3", "not laid out as a recipe"),
        ("n_steps = { two = 1.0 }", "not laid out as a recipe"),
    ],
)
def test_impossible_stage_ends_in_one_sentence(stage, words, tmp_path):
    name = "" if stage.startswith("name") else 'name = "x"\n'
    text = f'name = "r"\n[base]\ntype = "gpt2"\nvocabulary = 600\n[base.config]\n[[stages]]\n{name}{stage}\n'
    (tmp_path / "r.toml").write_text(text + "steps = 1\nrate = 1e-3\nweights = { teacher = 1.0 }\n")
    with pytest.raises(RecipeError) as caught:
        read_recipe(tmp_path / "r.toml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ("thoughts = 99", "from 0 to 32"),
        ("lora = 5", "not laid out as a recipe"),
        ("stages = 3", "not laid out as a recipe"),
    ],
)
def test_impossible_recipe_ends_in_one_sentence(top, words, tmp_path):
    stages = (
        ""
        if top.startswith("stages")
        else '[[stages]]\nname = "x"\nsteps = 1\nrate = 1e-3\nweights = { teacher = 1.0 }\n'
    )
    text = f'name = "r"\n{top}\n[base]\ntype = "gpt2"\nvocabulary = 600\n[base.config]\n{stages}'
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        read_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'name = "x"\n{NEW.replace("gpt2", "bert")}{ONE}', "for a base of type 'bert'; use one of gpt2, llama"),
        (f'name = "x"\nseed = 2026-11-26\n{NEW}{ONE}', r"not laid out as a recipe \(.*\); compare it with a bundled"),
    ],
)
def test_what_no_recipe_can_ask_for_is_one_sentence(text, words, read):
    with pytest.raises(RecipeError, match=words):
        read(text)
