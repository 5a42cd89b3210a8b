"""lm-eval's requests in tokens, and our models as its LM."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from lm_eval.api.instance import Instance

from harness.errors import RequestError
from harness.lm_eval_bridge import LongreachLM, RequestEncoder
from harness.models.loading import LoadedModel
from harness.types import Output
from methods.ntk import DynamicNTK
from methods.yarn import YaRN


@pytest.fixture(scope="module")
def tokenizer():
    from harness.models.loading import load_tokenizer
    from harness.models.request import ModelRequest

    return load_tokenizer(ModelRequest(name="tiny-llama"))


def request(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def choices(*pairs):
    return [request("loglikelihood", *pair) for pair in pairs]


class Recorder:
    """A model that finds every token equally probable and says its prompt's length; a method that notes lengths."""

    device, request = "cpu", SimpleNamespace(label="recorder")

    def __init__(self, tokenizer):
        self.tokenizer, self.examples, self.lengths = tokenizer, [], []

    @contextmanager
    def applied(self, model, *, seq_len):
        self.lengths.append(seq_len)
        yield

    def answer(self, example):
        self.examples.append(example)
        counts = [len(segment.token_ids) - segment.n_context for segment in example.segments]
        return Output(
            text=f"{len(example.prompt_ids)}",
            logprobs=tuple((-1.0,) * count for count in counts),
            greedy=tuple((count == 1,) * count for count in counts),
        )


@pytest.fixture
def recorder(tokenizer):
    return Recorder(tokenizer)


def lm(recorder, max_length=1000):
    return LongreachLM(recorder, recorder, max_length=max_length)


class TestEncoder:
    def test_a_space_at_the_end_of_the_context_belongs_to_the_continuation(self, tokenizer):
        spaced, plain = RequestEncoder(tokenizer).segments(choices(("The sky is ", "blue"), ("The sky is", " blue")))
        assert spaced == plain
        assert tokenizer.decode(plain.token_ids[plain.n_context :]) == " blue"

    def test_no_context_is_the_beginning_of_text(self, tokenizer):
        (segment,) = RequestEncoder(tokenizer).segments(choices(("", "blue")))
        assert segment.n_context == 1
        assert segment.token_ids[0] == tokenizer.bos_token_id

    def test_a_text_that_begins_with_its_bos_gets_no_second_one(self, tokenizer):
        from tokenizers.processors import TemplateProcessing

        bos = tokenizer.bos_token
        before = tokenizer.backend_tokenizer.post_processor
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
        try:
            encoder = RequestEncoder(tokenizer)
            with_bos, without = encoder.segments(choices((f"{bos}The sky is", " blue"), ("The sky is", " blue")))
            generations = [encoder.generation(request("generate_until", text, {})) for text in ("Hi", f"{bos}Hi")]
        finally:
            tokenizer.backend_tokenizer.post_processor = before
        assert with_bos == without
        assert without.token_ids[0] == tokenizer.bos_token_id
        assert generations[0] == generations[1]

    def test_a_continuation_without_a_token_is_refused(self, tokenizer):
        with pytest.raises(ValueError, match="no token of its own"):
            RequestEncoder(tokenizer).segments(choices(("The sky is blue", "")))

    @pytest.mark.parametrize(
        ("settings", "new_tokens", "stop"),
        [
            ({"until": ["\n", ""], "max_gen_toks": 7}, 7, ("\n",)),
            ({"until": "Q:", "max_new_tokens": 9, "do_sample": False, "temperature": 0.0}, 9, ("Q:",)),
            ({}, 256, ()),
        ],
    )
    def test_a_generation_has_lm_evals_budget_and_stops(self, tokenizer, settings, new_tokens, stop):
        found = RequestEncoder(tokenizer).generation(request("generate_until", "Hello", settings))
        assert (found.max_new_tokens, found.stop) == (new_tokens, stop)
        assert tokenizer.decode(found.prompt_ids) == "Hello"

    def test_sampling_is_refused(self, tokenizer):
        with pytest.raises(RequestError, match="answers greedily"):
            RequestEncoder(tokenizer).generation(
                request("generate_until", "Hello", {"do_sample": True, "temperature": 1.0})
            )


class TestLongreachLM:
    def test_answers_come_back_in_the_order_of_the_requests(self, recorder):
        texts = [("a b", " c d e"), ("a b c d e f g", " h"), ("a b", " c")]
        expected = [lm(recorder).loglikelihood([one], disable_tqdm=True)[0] for one in choices(*texts)]
        assert lm(recorder).loglikelihood(choices(*texts), disable_tqdm=True) == expected

    @pytest.mark.parametrize("method", [DynamicNTK(), YaRN(factor=4.0)])
    def test_generations_together_are_those_of_each_request_alone(self, tiny_llama, method, monkeypatch):
        """Under a RoPE that follows the length, one that does not, and where memory runs out in a batch."""
        model = LongreachLM(tiny_llama, method, max_length=2000)
        lengths = (3, 300, 1, 40, 350)
        asked = [request("generate_until", "x y " * n, {"max_gen_toks": n % 9 + 2, "until": ["z"]}) for n in lengths]
        expected = [model.generate_until([one])[0] for one in asked]
        assert model.generate_until(asked) == expected
        full, tried = LoadedModel.answer_each, []

        def failing(self, examples, settled, *, n_rows):
            tried.append(n_rows)
            for n, found in enumerate(full(self, examples, settled, n_rows=n_rows)):
                if n == 1 and n_rows > 1:
                    raise MemoryError
                yield found

        monkeypatch.setattr(LoadedModel, "answer_each", failing)
        monkeypatch.setattr(tiny_llama.limits, "batch", 4)
        assert model.generate_until(asked) == expected
        assert max(tried) == 4 or isinstance(method, DynamicNTK)

    def test_the_longest_comes_first_and_choices_of_one_context_come_together(self, recorder):
        lm(recorder).loglikelihood(
            choices(("short", " a"), ("a longer context", " b"), ("short", " c d")), disable_tqdm=True
        )
        assert [len(example.segments) for example in recorder.examples] == [1, 2]

    def test_the_method_is_put_on_for_each_requests_own_length(self, recorder):
        lm(recorder).loglikelihood(choices(("a b c", " d"), ("a", " b")), disable_tqdm=True)
        assert recorder.lengths == [example.n_tokens for example in recorder.examples]
        assert len(set(recorder.lengths)) == 2

    def test_a_request_longer_than_allowed_is_refused_not_cut(self, recorder):
        with pytest.raises(RequestError, match="max_length = 8 is too short"):
            lm(recorder, 8).loglikelihood(choices(("a b c d e f g h i j", " k")), disable_tqdm=True)
        with pytest.raises(RequestError, match="max_length = 100 is too short"):
            lm(recorder, 100).generate_until([request("generate_until", "a b", {})])

    def test_a_long_text_is_scored_in_windows_each_token_once(self, recorder):
        text = "one two three four five six seven eight nine ten " * 5
        (found,) = lm(recorder, 16).loglikelihood_rolling([request("loglikelihood_rolling", text)])
        assert found == -len(recorder.tokenizer(text)["input_ids"])
        assert {len(segment.token_ids) for segment in recorder.examples[0].segments} == {16}
        assert lm(recorder, 16).loglikelihood_rolling([request("loglikelihood_rolling", "")]) == [0]
