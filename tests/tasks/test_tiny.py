import itertools
import json

import pytest

from rlhf_utils import pretrain
from rlhf_utils.sft import encode_texts, validation_loss
from rlhf_utils.tasks.tiny import (
    BASE_MODEL,
    TRAIN_REVIEWS,
    VALIDATION_REVIEWS,
    GoldJudge,
    base_config,
    base_model_facts,
    load_base_model,
    opening,
    prompts,
    reviews,
    sentences,
    tokenizer,
)
from rlhf_utils.tasks.tiny_language import DOMAINS, GRAMMAR

judge = GoldJudge()


def verdict(text):
    return judge.verdict(text)


# -- the language


def test_the_language_has_its_promised_size():
    assert 400 <= len(GRAMMAR.words) <= 800
    assert len(GRAMMAR.words) == 549  # the number in the module's docstring
    assert len(GRAMMAR.rules["verdict"]) >= 25
    assert len(DOMAINS) == 7


def test_each_word_is_one_token_and_nothing_is_unknown():
    words = tokenizer()
    assert len(words) == len(GRAMMAR.words) + 3
    assert len({words.pad_token_id, words.eos_token_id, words.unk_token_id}) == 3
    text = " ".join(GRAMMAR.words)
    ids = words(text)["input_ids"]
    assert len(ids) == len(GRAMMAR.words)
    assert words.unk_token_id not in ids
    assert words.decode(ids) == text


def test_a_words_sentiment_is_the_same_wherever_it_stands():
    places = {}
    for members in GRAMMAR.classes.values():
        for word, value in members.items():
            if value is not None:
                assert places.setdefault(word, value) == value
                assert -1 <= value <= 1


def test_no_opinion_word_is_also_a_plain_one():
    plain = {w for members in GRAMMAR.classes.values() for w, v in members.items() if v is None}
    literal = {s for rules in GRAMMAR.rules.values() for r in rules for s, is_slot in r.symbols if not is_slot}
    assert not set(GRAMMAR.opinion_words) & (plain | literal)


def test_every_adjective_takes_the_article_a():
    assert not [w for w in GRAMMAR.classes["adj"] if w[0] in "aeiou"]


def test_the_writer_and_the_judge_agree():
    for text, sentiment in itertools.islice(sentences("review", seed=77, validation=False), 2000):
        found = verdict(text)
        assert found.sentiment == sentiment, text
        assert (found.grammatical, found.run_on, found.repetition) == (1.0, 0.0, 0.0), text


def test_other_domains_are_grammatical_and_neutral():
    for domain in DOMAINS[1:]:
        for text, _ in itertools.islice(sentences(domain, seed=5, validation=False), 100):
            assert judge.scores([text]) == [0.0], text


# -- the judge, by hand


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("the plot is superb .", 1.0),
        ("the plot is not superb .", -0.7),
        ("the plot is anything but dreadful .", 1.0),
        ("the plot is hardly dull .", 0.6 * 0.7),
        ("the plot is neither sour nor messy .", -0.5 * (-0.5 - 0.5)),
        ("the plot never bores me .", 0.8 * 0.8),
        ("the plot fails to charm me .", -0.8 * 0.8),
        ("nobody could call the plot funny .", -0.8 * 0.7),
        ("the plot is dull but tender .", 0.25 * -0.7 + 0.75 * 0.8),
        ("the plot is tender but dull .", 0.25 * 0.8 + 0.75 * -0.7),
        ("although the cast is warm , the plot is tedious .", 0.25 * 0.6 + 0.75 * -0.9),
        ("despite the clumsy lighting , the plot is wonderful .", 0.2 * -0.8 + 0.8 * 0.9),
        ("the plot is too sweet to be gripping .", 0.2 * 0.5 - 0.7 * 0.8),
        ("i expected a great film and found a dull one .", None),  # `great` is no word of the language
        ("i expected a superb film and found a dull one .", 0.9 * -0.7 - 0.1 * 1.0),
        ("the plot is superb and nobody wanted to leave .", 0.8 * 1.0 + 0.2),
    ],
)
def test_a_finished_review_is_worth_its_sentiment(text, sentiment):
    if sentiment is None:
        assert verdict(text).grammatical < 1
    else:
        assert judge.scores([text]) == [pytest.approx(sentiment)]


def test_an_unfinished_review_loses_its_missing_words():
    found = verdict("the plot is superb")
    assert found.sentiment == 1.0
    assert found.grammatical == 4 / 5  # a full stop is missing
    assert found.score == pytest.approx(0.8)
    assert verdict("the plot").score == pytest.approx(-1 / 3)  # no opinion, and 2 of 3 words


def test_a_run_on_loses_the_share_behind_the_first_sentence():
    found = verdict("the plot is superb . the cast is dreadful .")
    assert (found.sentiment, found.grammatical, found.run_on) == (1.0, 1.0, 0.5)
    assert found.score == 0.5


def test_repeating_an_opinion_costs_its_share():
    found = verdict("the plot is superb and superb .")
    assert found.repetition == 1 / 7
    assert found.score == pytest.approx(1.0 - 1 / 7)  # 0.55 · 2, clipped to 1


def test_chanting_is_worse_than_silence():
    assert verdict("superb superb superb superb superb superb").score < -1
    assert verdict("the plot is superb superb superb superb .").score < 0.5


@pytest.mark.parametrize("text", ["of of of the xyzzy is", "", "   ", ". . ."])
def test_where_no_word_can_be_read_all_is_lost(text):
    assert verdict(text).score == -1.0


def test_another_domain_is_no_way_to_please():
    assert verdict("dear anna , thank you for the letter .").score == 0
    assert verdict("what a salty soup .").score == 0


# -- the corpora


@pytest.fixture(scope="module")
def pretraining():
    return set(itertools.islice(pretrain.corpus(), 40_000))


def test_corpora_do_not_overlap(tiny, pretraining):
    train, validation = ({r.text for r in rows} for rows in (tiny.train, tiny.validation))
    assert (len(train), len(validation)) == (TRAIN_REVIEWS, VALIDATION_REVIEWS)  # all are distinct
    held_out = set(pretrain.corpus(2000, validation=True))
    assert not train & validation
    assert not pretraining & validation
    assert not pretraining & held_out
    assert not train & held_out


def test_labels_are_exact_and_balanced(tiny):
    for rows in (tiny.train[:2000], tiny.validation):
        assert [score > 0 for score in judge.scores([r.text for r in rows])] == [r.label == 1 for r in rows]
        assert 0.4 < sum(r.label for r in rows) / len(rows) < 0.6
    assert tiny.judge_accuracy == 1.0


def test_words_alone_do_not_decide_the_label():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, check = reviews(8000, seed=1, validation=False), reviews(1000, seed=2, validation=True)
    unigrams = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=500))
    unigrams.fit([r.text for r in train], [r.label for r in train])
    accuracy = unigrams.score([r.text for r in check], [r.label for r in check])
    assert 0.6 < accuracy < 0.9


def test_prompts_are_disjoint_and_give_no_opinion_away(tiny):
    train, held_out = set(tiny.train_prompts), set(tiny.eval_prompts)
    assert not train & held_out
    assert min(len(train), len(held_out)) > 100
    for prompt in train | held_out:
        assert 1 <= len(prompt.split()) <= 4
        assert not set(prompt.split()) & set(GRAMMAR.opinion_words)


def test_openings_stop_before_the_opinion():
    assert opening("the plot is superb .") == "the plot is"
    assert opening("superb it is") == ""
    assert opening("the plot of this film is superb .") == "the plot of this"
    train, held_out = prompts(["superb ."])
    assert train == held_out == []


def test_prompts_leave_the_verdict_open(tiny):
    # Prompts that begin three training reviews of each sign; a few forms ("i left the cinema") must be among them.
    seen = {}
    for row in tiny.train:
        seen.setdefault(opening(row.text), set()).add(row.label)
    frequent = [labels for labels in seen.values() if labels]
    assert sum(len(labels) == 2 for labels in frequent) > 300


# -- the base model


def test_the_shipped_model_fits_its_recipe():
    facts = base_model_facts()
    assert facts["recipe_key"] == pretrain.recipe_key()
    assert facts["texts"] == pretrain.TEXTS
    parameters = sum(p.numel() for p in load_base_model().parameters())
    assert facts["parameters"] == parameters <= 600_000
    assert (BASE_MODEL / "model.safetensors").stat().st_size <= 1.1 * 2**20


def test_the_record_does_not_depend_on_library_versions():
    assert "transformers_version" in base_config().to_diff_dict()
    key = pretrain.recipe_key()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.configuration_utils.__version__", "99.0")
        assert pretrain.recipe_key() == key


def test_the_shipped_model_reproduces_its_losses(tiny):
    recorded = base_model_facts()["validation_loss"]
    model, words = load_base_model(), tokenizer()
    texts = {"all_domains": pretrain.corpus(2000, validation=True), "film_reviews": [r.text for r in tiny.validation]}
    for name, rows in texts.items():
        loss = validation_loss(model, encode_texts(words, rows, pretrain.RECIPE.max_tokens), words.pad_token_id)
        assert loss == pytest.approx(recorded[name], abs=0.005)


def test_each_load_gives_a_fresh_model():
    first, second = load_base_model(), load_base_model()
    assert first.lm_head.weight is not second.lm_head.weight
    assert not first.training


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pretraining_again_reaches_the_recorded_losses(tmp_path):
    facts = pretrain.pretrain(tmp_path)
    recorded = base_model_facts()
    assert facts["recipe_key"] == recorded["recipe_key"]
    for name, loss in recorded["validation_loss"].items():
        assert facts["validation_loss"][name] == pytest.approx(loss, abs=0.02)
    assert json.loads((tmp_path / "facts.json").read_text()) == facts
    assert (tmp_path / "model.safetensors").stat().st_size == (BASE_MODEL / "model.safetensors").stat().st_size
