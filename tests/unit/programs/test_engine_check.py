"""The parts of engine_check that need no vLLM; the rest runs in a real image, see tests/contract."""

import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[3] / "roles/vllm_service/files/engine_check.py"

OPTIONS = [
    "--max-model-len",
    "--max-num-seqs",
    "--enable-log-requests",
    "--no-enable-log-requests",
    "--device-ids",
    "-tp",
]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_check", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ec = load()


def brief(findings: Any) -> list[tuple[str, str, str]]:
    return [(f.id, f.severity, f.key) for f in findings]


class TestRequest:
    def test_reads_services(self) -> None:
        text = json.dumps(
            {
                "services": {
                    "a": {"argv": ["/model"]},
                    "b": {"argv": [], "env": {"VLLM_X": "1"}, "files": {"p.py": "x"}, "model": {"folder": "/models/b"}},
                }
            }
        )
        found = ec.read_request(text)
        assert found["a"] == ec.Wanted(("/model",), {}, {}, {})
        assert found["b"] == ec.Wanted((), {"VLLM_X": "1"}, {"p.py": "x"}, {"folder": "/models/b"})

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "not JSON"),
            ("[]", "stdin must be"),
            ('{"services": []}', "stdin must be"),
            ('{"services": {"a": {}}}', "services.a.argv"),
            ('{"services": {"a": {"argv": [1]}}}', "services.a.argv"),
            ('{"services": {"a": {"argv": [], "env": {"X": 1}}}}', "services.a.env"),
            ('{"services": {"a": {"argv": [], "files": {"../x": ""}}}}', "services.a.files"),
            ('{"services": {"a": {"argv": [], "model": {"folder": 3}}}}', "services.a.model"),
        ],
    )
    def test_refuses_other_shapes(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            ec.read_request(text)

    def test_main_says_what_is_wrong_with_stdin(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("nonsense"))
        assert ec.main() == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "engine_check: stdin is not JSON" in shown.err


class TestArguments:
    def test_config_that_cannot_be_read_is_dropped(self) -> None:
        argv = ["/model", "--config", "/run/secrets/engine.yml", "--port", "8000"]
        assert ec.without_config(argv) == (["/model", "--port", "8000"], [])

    def test_config_that_can_be_read_stays(self, tmp_path: Path) -> None:
        file = tmp_path / "engine.yml"
        file.write_text("api-key: [a]")
        assert ec.without_config(["--config", str(file)]) == (["--config", str(file)], [])

    def test_config_in_one_word_is_refused(self) -> None:
        argv, found = ec.without_config(["/model", "--config=/run/secrets/engine.yml"])
        assert argv == ["/model"]
        assert brief(found) == [("config-ignored", "error", "args.config")]

    def test_plugin_paths_point_into_the_folder_given(self) -> None:
        argv = ["--tool-parser-plugin", "/plugins/a.py", "--other", "/pluginsx"]
        assert ec.here(argv, "/plugins/one") == ["--tool-parser-plugin", "/plugins/one/a.py", "--other", "/pluginsx"]
        assert ec.here(argv, "/plugins") == argv
        assert ec.here(["/model", "--x", "/models"], "/plugins", "/tmp/model") == ["/tmp/model", "--x", "/models"]

    def test_values_of_a_repeated_flag(self) -> None:
        argv = ["--middleware", "a.A", "--x", "1", "--middleware", "b.B", "--middleware=c.C"]
        assert ec.values(argv, "--middleware") == ["a.A", "b.B", "c.C"]
        assert ec.values(["--middleware"], "--middleware") == []

    def test_abbreviations(self) -> None:
        argv = ["--max-num-seq", "3", "--max_model_len", "9", "--max-model-len=9", "--enable-log", "-x", "--zzz"]
        found = ec.abbreviations(argv, OPTIONS)
        assert brief(found) == [
            ("flag-abbreviated", "warn", "args.max-num-seq"),
            ("flag-abbreviated", "warn", "args.enable-log"),
        ]
        assert found[0].remedy == "Write `max-num-seqs`"

    def test_a_dotted_flag_is_no_abbreviation(self) -> None:
        assert ec.abbreviations(["--compilation-config.mode", "3"], ["--compilation-config"]) == []


class TestMessages:
    """Messages as vLLM 0.32 gives them."""

    def test_unknown_flags_are_all_named(self) -> None:
        found = ec.parse_findings("unrecognized arguments: --swap-space 4 --max-model-lem 9 --foo=-1", OPTIONS)
        assert brief(found) == [
            ("flag-unknown", "error", "args.swap-space"),
            ("flag-unknown", "error", "args.max-model-lem"),
            ("flag-unknown", "error", "args.foo"),
        ]
        assert found[1].remedy == "Did you mean `max-model-len`?"
        assert found[0].remedy.startswith("Remove it")

    def test_a_hint_of_vllm_does_not_become_flags(self) -> None:
        found = ec.parse_findings("unrecognized arguments: --task embed\n\nHint: use --runner pooling", OPTIONS)
        assert [f.key for f in found] == ["args.task"]

    def test_the_opposite_is_never_suggested(self) -> None:
        (found,) = ec.parse_findings("unrecognized arguments: --disable-log-requests", OPTIONS)
        assert "`enable-log-requests`" not in found.remedy

    def test_ambiguous_flag_is_unknown(self) -> None:
        message = "ambiguous option: --device could match --device-ids, --device-memory-utilization"
        assert brief(ec.parse_findings(message, OPTIONS)) == [("flag-unknown", "error", "args.device")]

    @pytest.mark.parametrize(
        ("message", "key", "said"),
        [
            ("argument --dtype: invalid choice: 'halff' (choose from 'auto')", "args.dtype", "invalid choice: 'halff'"),
            ("argument --tensor-parallel-size/-tp: invalid int value: 'x'", "args.tensor-parallel-size", "invalid int"),
            (
                "argument --limit-mm-per-prompt: Value image=2 cannot be converted to <function loads at 0x7f6c2f>.",
                "args.limit-mm-per-prompt",
                "Value image=2 cannot be converted to loads.",
            ),
            (
                "argument --compilation-config/-cc: 1 validation error for CompilationConfig\nlevel\n"
                "  Unexpected keyword argument [type=unexpected_keyword_argument, input_value=3]\n"
                "    For further information visit x",
                "args.compilation-config",
                "1 validation error for CompilationConfig level Unexpected keyword argument",
            ),
        ],
    )
    def test_refused_value(self, message: str, key: str, said: str) -> None:
        (found,) = ec.parse_findings(message, OPTIONS)
        assert (found.id, found.severity, found.key) == ("flag-value", "error", key)
        assert said in found.message
        assert "further information" not in found.message

    def test_anything_else_concerns_the_whole_command(self) -> None:
        (found,) = ec.parse_findings("TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser", OPTIONS)
        assert (found.id, found.key) == ("command", "args")
        assert "--tool-call-parser" in found.message


class TestNames:
    def test_registered_parser(self) -> None:
        assert ec.parser_finding("tool-call-parser", "hermes", {"hermes", "glm47"}) is None

    def test_near_miss(self) -> None:
        found = ec.parser_finding("reasoning-parser", "glm46", {"glm45", "qwen3"})
        assert brief([found]) == [("parser-unknown", "error", "args.reasoning-parser")]
        assert found.remedy == "Did you mean `glm45`?"

    def test_nothing_near_lists_all(self) -> None:
        assert ec.parser_finding("tool-call-parser", "zzz", {"b", "a"}).remedy == "It has: a, b"

    def test_environment(self) -> None:
        env = {"VLLM_USE_V1": "1", "VLLM_LOGGING_LEVL": "INFO", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "4"}
        known = ["VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL"]
        found = ec.env_findings(env, known, fatal=False)
        assert brief(found) == [
            ("env-unknown", "error", "env.VLLM_LOGGING_LEVL"),
            ("env-unknown", "error", "env.VLLM_USE_V1"),
        ]
        assert [f.remedy for f in found] == ["Did you mean `VLLM_LOGGING_LEVEL`?", "Remove it"]

    def test_the_images_own_variables_count_when_they_are_fatal(self) -> None:
        own = {"VLLM_BUILD_OF_THE_IMAGE": "1", "PATH": "/"}
        assert ec.env_findings({}, [], fatal=False, own=own) == []
        (found,) = ec.env_findings({}, [], fatal=True, own=own)
        assert (found.id, found.key) == ("env-unknown", "image")
        assert "sets VLLM_BUILD_OF_THE_IMAGE" in found.message


KNOWN = ("Qwen3ForCausalLM", "Glm4MoeLiteForCausalLM")


class TestModels:
    """Messages as vLLM 0.32 and 0.33, and transformers 5.19, give them."""

    @pytest.mark.parametrize(
        ("message", "name", "key", "said"),
        [
            (
                "ValidationError: 1 validation error for ModelConfig Value error, User-specified max_model_len (999999) is greater "
                "than the derived max_model_len (max_position_embeddings=8192 or model_max_length=None in model's config.json).",
                "max-model-len",
                "args.max-model-len",
                "Set it to 8192 or less",
            ),
            (
                "ValidationError: 1 validation error for ModelConfig Value error, Model architectures ['Qwen33ForCausalLM'] are "
                "not supported for now. Supported architectures: dict_keys(['Qwen3ForCausalLM'])",
                "architecture-unknown",
                "model",
                "Did you mean `Qwen3ForCausalLM`?",
            ),
            (
                "ValueError: The checkpoint you are trying to load has model type `qwen33` but Transformers does not recognize "
                "this architecture.",
                "architecture-unknown",
                "model",
                "newer engine",
            ),
            (
                "RuntimeError: Failed to load the model config. If the model is a custom model not yet available in the "
                "HuggingFace transformers library, consider setting `trust_remote_code=True` in LLM",
                "remote-code",
                "args.trust-remote-code",
                "lock the model's revision",
            ),
            (
                "OSError: It looks like the config file at 'x' is not a valid JSON file.",
                "model-refused",
                "model",
                "Correct",
            ),
        ],
    )
    def test_why_there_is_no_configuration(self, message: str, name: str, key: str, said: str) -> None:
        found = ec.model_findings(message, KNOWN, blind=True)
        assert (found.id, found.severity, found.key) == (name, "error", key)
        assert said in found.remedy

    def test_what_only_a_device_decides_is_told_where_there_is_none(self) -> None:
        message = "ValueError: bitsandbytes quantization is currently not supported in cpu."
        assert ec.model_findings(message, KNOWN, blind=True).severity == "warn"
        assert ec.model_findings(message, KNOWN, blind=False).severity == "error"

    def test_a_model_known_by_its_configuration_alone_gets_a_folder(self, tmp_path: Path) -> None:
        service = ec.Wanted((), {}, {"p.py": "x"}, {"config": {"a": 1}})
        plugins, model = ec.laid_out(service, tmp_path)
        assert Path(plugins, "p.py").read_text() == "x"
        assert json.loads(Path(model, "config.json").read_text()) == {"a": 1}

    def test_a_model_that_is_there_stays_where_it_is(self, tmp_path: Path) -> None:
        assert ec.laid_out(ec.Wanted((), {}, {}, {"folder": "/models/a"}), tmp_path)[1] == "/models/a"

    @pytest.mark.parametrize(
        ("given", "text", "key"),
        [
            ("auto", "{", "model"),
            ("auto", "[]", "model"),
            ("auto", "{}", ""),
            ("auto", None, ""),
            ("vllm", "{", ""),
            ("/nowhere", "{}", "args.generation-config"),
        ],
    )
    def test_sampling_defaults(self, tmp_path: Path, given: str, text: str | None, key: str) -> None:
        if text is not None:
            (tmp_path / "generation_config.json").write_text(text)
        found = ec.sampling_findings(str(tmp_path), given)
        assert [(f.id, f.key) for f in found] == ([("generation-config", key)] if key else [])


class TestTemplates:
    """With templates that stand for what real ones do; real ones are rendered in tests/contract."""

    @staticmethod
    def check(answer: Any, tools: bool = True, images: bool = True) -> list[tuple[str, str, str]]:
        return brief(ec.template_findings("model", tools, images, answer))

    def test_one_that_shows_all(self) -> None:
        assert self.check(lambda m, t, image=True: (f"{m}{t}{image}", "openai")) == []

    def test_one_without_tools(self) -> None:
        def shown(messages: Any, _tools: Any, image: bool = True) -> tuple[str, str]:
            return f"{[m for m in messages if m['role'] != 'tool']}{image}", "openai"

        assert self.check(shown) == [("template-incomplete", "error", "model")] * 2
        assert self.check(shown, tools=False) == []

    def test_one_without_images(self) -> None:
        assert self.check(lambda m, t, **_: (f"{m}{t}", "openai")) == [("template-incomplete", "error", "model")]
        assert self.check(lambda m, t, **_: (f"{m}{t}", "string")) == []
        assert self.check(lambda m, t, **_: (f"{m}{t}", "openai"), images=False) == []

    def test_one_that_fails_fails_once(self) -> None:
        def shown(*_: Any, **__: Any) -> tuple[str, str]:
            raise ValueError("no")

        assert self.check(shown) == [("template-broken", "error", "model")]

    def test_parts(self) -> None:
        message = {"role": "user", "content": "What is this?", "image": True}
        text = {"type": "text", "text": "What is this?"}
        assert ec.as_parts([message]) == [{"role": "user", "content": [{"type": "image"}, text]}]
        assert ec.as_parts([message], image=False) == [{"role": "user", "content": [text]}]


class TestAnswer:
    def test_a_warning_is_ok(self) -> None:
        warning = ec.Finding("env-unknown", "warn", "env.X", "m", "r")
        assert ec.answer([warning]) == {
            "ok": True,
            "findings": [{"id": "env-unknown", "severity": "warn", "key": "env.X", "message": "m", "remedy": "r"}],
        }

    def test_an_error_is_not(self) -> None:
        assert not ec.answer([ec.Finding("command", "error", "args", "m", "r")])["ok"]

    def test_without_vllm_every_service_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "vllm", None)
        answers = ec.check_all({"a": ec.Wanted(("/model",), {}), "b": ec.Wanted((), {})})
        assert sorted(answers) == ["a", "b"]
        assert [(a["ok"], a["findings"][0]["id"]) for a in answers.values()] == [(False, "engine-unreadable")] * 2

    def test_long_errors_are_cut(self) -> None:
        assert ec.said(ValueError("a\n  b")) == "ValueError: a b"
        assert ec.said(KeyboardInterrupt()) == "KeyboardInterrupt"
        assert len(ec.said(ValueError("x" * 9000))) < 600


class TestPlugins:
    def test_good_and_broken_middleware(self, tmp_path: Path) -> None:
        (tmp_path / "mw_probe.py").write_text("class A: ...\nasync def b(r, c): ...\nvalue = 3\n")
        argv = [word for name in ("A", "b", "value", "gone") for word in ("--middleware", f"mw_probe.{name}")]
        with ec.plugins_apart(str(tmp_path), []):
            found = ec.plugin_findings(argv)
        assert brief(found) == [("plugin-broken", "error", "plugins.middleware")] * 2
        assert "neither a class nor a coroutine function" in found[0].message
        assert "mw_probe.gone" in found[1].message

    def test_a_broken_parser_file_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "parser_probe.py"
        file.write_text("import nothing_of_that_name\n")
        (found,) = ec.plugin_findings(["--tool-parser-plugin", str(file)])
        assert (found.id, found.key) == ("plugin-broken", "plugins.tool_parser")
        assert "parser_probe.py cannot be loaded: ModuleNotFoundError" in found.message

    def test_one_service_does_not_see_the_plugins_of_another(self, tmp_path: Path) -> None:
        table = {"hermes": 1}
        path = list(sys.path)
        for name, value in (("one", 1), ("two", 2)):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "shared_probe.py").write_text(f"value = {value}\n")
            with ec.plugins_apart(str(folder), [table]):
                assert ec.load_file(str(folder / "shared_probe.py")).value == value
                assert importlib.import_module("shared_probe").value == value
                assert table == {"hermes": 1}
                table[name] = value
        assert table == {"hermes": 1}
        assert "shared_probe" not in sys.modules
        assert sys.path == path

    def test_environment_is_put_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEPT", "1")
        with ec.environment({"KEPT": "2", "NEW": "3"}):
            assert (os.environ["KEPT"], os.environ["NEW"]) == ("2", "3")
        assert os.environ["KEPT"] == "1"
        assert "NEW" not in os.environ


class TestAttribute:
    """vLLM moves its modules from one version to the next."""

    def test_first_home_that_has_it(self) -> None:
        assert ec.attribute(("json.nowhere", "nowhere.at.all", "json", "os"), "dumps") is json.dumps
        assert ec.attribute(("os", "json"), "dumps") is json.dumps

    def test_no_home(self) -> None:
        with pytest.raises(ImportError, match="dumps is in none of os, nowhere"):
            ec.attribute(("os", "nowhere"), "dumps")

    def test_a_home_that_is_broken_is_not_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "home_probe.py").write_text("import missing_dependency\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ModuleNotFoundError, match="missing_dependency"):
            ec.attribute(("home_probe", "json"), "dumps")

    def test_tables_of_old_and_new_managers(self) -> None:
        new = SimpleNamespace(tool_parsers={"a": 1}, lazy_parsers={"b": 2})
        old = SimpleNamespace(reasoning_parsers={"c": 3})
        assert ec._tables(new) == [{"a": 1}, {"b": 2}]
        assert ec._tables(old) == [{"c": 3}]
