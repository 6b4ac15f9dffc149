"""Assignments and their grading: what is handed out, what comes back, and that the marks are the right ones."""

import csv
import os
import zipfile
from pathlib import Path

import nbformat
import pytest

from course.kit import checks, guard, matrix, source, term
from course.kit.__main__ import main
from course.kit.course import Course
from course.kit.environment import ensure
from course.kit.grading import Mark, grade
from course.kit.notebooks import staff_notebook, student_notebook
from course.kit.repair import UnreadableError, definitions, open_notebook, take
from course.kit.roster import Student, canvas, moodle, read_roster, safe
from course.kit.term import Term, find_term
from rlhf_utils.errors import UserError

NAMES = source.names()
TERM = Term("a term of the tests")
ADA, BEN = Student("s001", "ada@example.org"), Student("s002", "ben@example.org")
SMALL = """---
title: A small one
chapters: [1]
variants:
  sign: [1, -1]
---
Question?

```{code-cell}
import math
```

```{code-cell}
:answer: twice
:points: 2
:minutes: 5
:todo: double it, with the sign: yours
def twice(x):
    ### BEGIN SOLUTION
    return {{ sign }} * 2 * x
    ### END SOLUTION
```

```{code-cell}
:test: twice
same(twice(1), {{ 2 * sign }})
```

```{code-cell}
:hidden: twice
x = draw.number()
same(twice(x), answer.twice(x))
refuses(TypeError, twice, None)
```

```{code-cell}
:wrong: twice
:name: once
:mistake: Not doubled.
def twice(x):
    return {{ sign }} * x
```

```{code-cell}
:wrong: twice
:name: squared
:mistake: Squared: right for 2 alone.
def twice(x):
    return x * x
```

:::{written} why
:points: 3
:minutes: 5
Why?
:::

:::{rubric} why
- 3 points: because.
:::
"""


def written(folder: Path, text: str, name: str = "01_small"):
    """A source in a folder of its own."""
    (folder / f"{name}.md").write_text(text, encoding="utf8")
    return source.read(name, source.first_variant(name))


@pytest.fixture
def sources(tmp_path, monkeypatch):
    folder = tmp_path / "sources"
    folder.mkdir()
    monkeypatch.setattr(source, "ASSIGNMENTS", folder)
    source._raw.cache_clear()
    yield folder
    source._raw.cache_clear()


def in_notebook(notebook, name):
    """The cell of a task."""
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name)


class TestSources:
    def test_there_are_eight_of_four_to_eight_tasks(self):
        assert len(NAMES) >= 8
        for name in NAMES:
            assignment = source.read(name, source.first_variant(name))
            assert 4 <= len(assignment.graded) <= 8
            assert assignment.questions, "no written part"
            assert len(source.variants(name)) >= 2

    @pytest.mark.parametrize("name", NAMES)
    def test_every_version_gets_what_it_should(self, name):
        for choices in (source.first_variant(name), source.next_variant(name, source.first_variant(name))):
            rows = matrix.rows_of(name, choices)
            assert [problem for row in rows for problem in matrix.problems(row, matrix.run_here(row))] == []

    @pytest.mark.parametrize("name", NAMES)
    def test_another_variant_loses_points(self, name):
        copied = next(row for row in matrix.rows_of(name) if row.version == matrix.OTHER)
        assert sum(points == 0 for points in copied.expected.values()) >= 3

    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_handed_out_holds_no_answer(self, name):
        assignment = source.read(name, source.first_variant(name))
        handed_out = "\n".join(cell.source for cell in student_notebook(assignment, "s001").cells)
        stubs = "\n".join(task.stub for task in assignment.tasks)
        for task in assignment.tasks:
            assert task.hidden not in handed_out
            for line in set(task.solution.splitlines()) - set(stubs.splitlines()):
                if len(line.strip()) > 30:
                    assert line not in handed_out
            assert f"raise NotImplementedError({task.todo!r})" in handed_out
        for question in assignment.questions:
            assert question.rubric not in handed_out
        staff = "\n".join(
            cell.source
            for cell in staff_notebook(
                assignment, "s001", dict.fromkeys([task.name for task in assignment.tasks], 1)
            ).cells
        )
        assert all(task.solution in staff and task.hidden in staff for task in assignment.tasks)
        assert all(question.rubric in staff for question in assignment.questions)

    def test_a_small_one_by_hand(self, sources):
        assignment = written(sources, SMALL)
        (task,) = assignment.tasks
        assert task.stub == "def twice(x):\n    raise NotImplementedError('double it, with the sign: yours')"
        assert task.solution == "def twice(x):\n    return 1 * 2 * x"
        assert [wrong.name for wrong in task.wrong] == ["once", "squared"]
        assert (assignment.points, assignment.minutes) == (5, 10)
        rows = {row.version: row.expected for row in matrix.rows_of("01_small", {"sign": 1})}
        zero, full = {"twice": 0}, {"twice": 2}
        assert rows == {matrix.UNTOUCHED: zero, matrix.STAFF: full, matrix.OTHER: zero, "once": zero, "squared": zero}

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            (":hidden: twice", ":hidden: thrice", "belongs to the task 'thrice'"),
            (":points: 2\n", "", "no option 'points'"),
            ("### BEGIN SOLUTION", "# begin", "no lines between"),
            (":::{rubric} why", ":::{rubric} what", "in the wrong place"),
            ("{{ 2 * sign }}", "{{ 2 * sing }}", "'sing' is undefined"),
            (":name: squared", ":name: once", "fewer than two wrong answers"),
            (":test: twice", ":test: twice\n:hidden: twice", "marked as test and as hidden"),
        ],
    )
    def test_a_slip_of_the_author_is_told(self, sources, old, new, told):
        with pytest.raises(UserError, match=told):
            written(sources, SMALL.replace(old, new))

    def test_a_test_that_catches_nothing_is_noticed(self, sources):
        written(
            sources,
            SMALL.replace("same(twice(x), answer.twice(x))", "pass").replace(
                "same(twice(1), {{ 2 * sign }})", "twice(1)"
            ),
        )
        rows = matrix.rows_of("01_small", {"sign": 1})
        told = [problem for row in rows for problem in matrix.problems(row, matrix.run_here(row))]
        assert len(told) == 3  # two wrong answers and another variant's
        assert told[1].startswith("01_small, twice once: twice got 2 and not 0")


class TestChecks:
    @pytest.mark.parametrize(
        ("actual", "expected"),
        [
            (1.0, 2.0),
            ([1.0], [1.0, 2.0]),
            ([1.0], 1.0),
            (1.0, [1.0]),
            (float("nan"), 0.0),
            (None, 0.0),
            ("a", "b"),
            ("1", 1),
        ],
    )
    def test_what_differs_fails(self, actual, expected):
        with pytest.raises(AssertionError, match="expected"):
            checks.same(actual, expected)

    def test_what_agrees_passes(self):
        torch = pytest.importorskip("torch")
        checks.same(torch.tensor([[1.0], [2.0]]), ((1, 2 + 1e-6),)[0] and [[1.0], [2.0]])
        checks.same((1, 2), [1.0, 2.0])
        checks.same(1e6, 1e6 + 1)
        checks.same(float("inf"), float("inf"))

    def test_a_stub_refuses_nothing(self):
        def stub(*_):
            raise NotImplementedError

        with pytest.raises(NotImplementedError):
            checks.refuses(ValueError, stub)
        with pytest.raises(NotImplementedError):
            checks.refuses(RuntimeError, stub)  # which it is a kind of
        with pytest.raises(AssertionError, match="nothing was raised"):
            checks.refuses(ValueError, len, [])
        checks.refuses(TypeError, len, 1)

    def test_a_seed_gives_the_same_inputs(self):
        one, two, three = (checks.Draw(seed) for seed in (1, 1, 2))
        assert one.table(2, 3) == two.table(2, 3) != three.table(2, 3)
        assert sum(one.shares(4)) == pytest.approx(1)
        mask = one.lengths(4, 5)
        assert mask[0] == [1] * 5
        assert 1 <= sum(mask[1]) < 5

    def test_output_is_cut_off_and_the_next_cell_starts_anew(self):
        class Stream:
            text = ""

            def write(self, text):
                self.text += text

        stream = Stream()
        short = guard.Short(stream)
        for _ in range(20):
            assert short.write("x" * 10_000) == 10_000
        assert len(stream.text) == guard.MOST
        short.refill()
        short.write("more")
        assert stream.text.endswith("xmore")


class TestTerm:
    def test_the_numbers_are_hmacs(self, monkeypatch):
        monkeypatch.setattr(term, "SHORTEST", 4)
        # RFC 4231, test case 2.
        assert Term("Jefe").number("what do ya want for nothing?") == 0x5BDCC146BF60754E

    def test_variants_differ_between_students_and_terms(self):
        options = {"gamma": [1, 2, 3], "sign": [1, 2]}
        chosen = [str(TERM.choose("a", f"s{i}", options)) for i in range(60)]
        assert len(set(chosen)) == 6
        assert chosen != [str(Term("another secret").choose("a", f"s{i}", options)) for i in range(60)]
        assert chosen == [str(TERM.choose("a", f"s{i}", options)) for i in range(60)]
        assert TERM.seed("a", "t") != Term("another secret").seed("a", "t")

    def test_a_secret_has_to_be_there_and_long(self, tmp_path, monkeypatch):
        monkeypatch.delenv(term.VARIABLE, raising=False)
        with pytest.raises(UserError, match="missing"):
            find_term(None, None)
        with pytest.raises(UserError, match="4 characters"):
            find_term("abcd", None)
        with pytest.raises(UserError, match="no file"):
            find_term(None, tmp_path / "none")
        (tmp_path / "term").write_text("from a file, long\n", encoding="utf8")
        assert find_term(None, tmp_path / "term").secret == "from a file, long"
        monkeypatch.setenv(term.VARIABLE, "from the environment")
        assert find_term(None, None).secret == "from the environment"
        assert "environment" not in repr(find_term(None, None))


class TestRoster:
    def test_bad_rows_are_told_by_line(self, tmp_path):
        path = tmp_path / "roster.csv"
        path.write_text(
            "id,email,name\ns001,ada@example.org,Ada\ns001,x@example.org,X\n,y@example.org,Y\ns003,nothing,Z\n"
            "s004,ADA@example.org,A\n../s,b@example.org,B\ns005,c@example.org,C,extra\ns006,d@example.org,D\n",
            encoding="utf8",
        )
        students, problems = read_roster(path)
        assert [student.id for student in students] == ["s001", "s006"]
        assert [problem.split(":")[0] for problem in problems] == [f"line {n}" for n in (3, 4, 5, 6, 7, 8)]
        assert "was there before, in line 2" in problems[3]

    @pytest.mark.parametrize(
        ("text", "told"), [("id,name\n1,A\n", "no column email"), ("id,email\n,\n", "no usable row")]
    )
    def test_a_useless_roster_is_refused(self, tmp_path, text, told):
        (tmp_path / "r.csv").write_text(text, encoding="utf8")
        with pytest.raises(UserError, match=told):
            read_roster(tmp_path / "r.csv")

    def test_columns_of_platforms(self):
        marks = {"s001": {"01": {"f": 2.0, "g": 0.5}}}
        assert moodle([ADA, BEN], marks, {"01": ["f", "g"]}) == [
            ["ID number", "Email address", "01", "01/f", "01/g"],
            ["s001", "ada@example.org", "2.5", "2", "0.5"],
            ["s002", "ben@example.org", "", "", ""],
        ]
        assert canvas([ADA], marks, {"01": 5.0})[1:] == [
            ["Points Possible", "", "", "", "", "5"],
            ["s001", "", "s001", "ada@example.org", "", "2.5"],
        ]

    def test_no_cell_is_a_formula(self):
        assert [safe(cell) for cell in ("=1+1", "@x", "-x", "-1.5", "text")] == ["'=1+1", "'@x", "'-x", "-1.5", "text"]


class TestRepair:
    @pytest.fixture
    def assignment(self):
        return source.read(NAMES[0], source.first_variant(NAMES[0]))

    def handed_in(self, assignment, change):
        notebook = student_notebook(assignment, "s001")
        for task in assignment.tasks:
            in_notebook(notebook, task.name).source = task.solution
        change(notebook)
        return take(notebook, assignment)

    def test_as_it_was_meant(self, assignment):
        found = self.handed_in(assignment, lambda notebook: None)
        assert found.answers == {task.name: task.solution for task in assignment.tasks}
        assert (found.notes, found.words, found.student) == ([], {}, "s001")
        assert not any(found.before.values())

    def test_cells_without_their_names(self, assignment):
        def strip(notebook):
            for cell in notebook.cells:
                cell.metadata.pop("nbgrader", None)

        found = self.handed_in(assignment, strip)
        assert found.answers == {task.name: task.solution for task in assignment.tasks}
        assert f"{assignment.tasks[0].name}: its cell was renamed" in found.notes

    def test_deleted_edited_and_moved(self, assignment):
        first, last = assignment.tasks[0].name, assignment.tasks[-1].name

        def change(notebook):
            in_notebook(notebook, f"test-{first}").source = "pass"
            notebook.cells.remove(in_notebook(notebook, last))
            notebook.cells.remove(in_notebook(notebook, f"test-{last}"))
            notebook.cells.insert(2, nbformat.v4.new_code_cell("def helper():\n    return 1"))
            notebook.cells.append(nbformat.v4.new_code_cell("while True:\n    pass"))

        found = self.handed_in(assignment, change)
        assert last not in found.answers
        assert found.before[first] == ["def helper():\n    return 1"]
        assert "pass" not in str(found.before)  # neither the edited test nor the cell after all answers
        assert found.notes == [f"{last}: no answer found", "1 test cells were missing and are put back"]

    def test_two_answers_and_a_written_one(self, assignment):
        task, question = assignment.tasks[0], assignment.questions[0]

        def change(notebook):
            notebook.cells.append(nbformat.v4.new_code_cell(task.wrong[0].code))
            in_notebook(notebook, question.name).source = "Because.\n"

        found = self.handed_in(assignment, change)
        assert found.answers[task.name] == task.wrong[0].code
        assert found.words == {question.name: "Because."}
        assert f"{task.name}: answered twice, the last one counts" in found.notes

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"cells": 3}', b"\xff\xfe", b'{"nbformat": 4, "cells": [1]}'])
    def test_what_is_no_notebook(self, tmp_path, data):
        (tmp_path / "x.ipynb").write_bytes(data)
        with pytest.raises(UnreadableError, match="isn't a notebook"):
            open_notebook(tmp_path / "x.ipynb")

    def test_definitions_don_t_run(self):
        code = "import math\nN = 3\nx = print(1)\nwhile True:\n    pass\ndef f():\n    return N\n"
        assert definitions(code) == "import math\nN = 3\ndef f():\n    return N"
        assert definitions("def f(:") is None


class TestCourse:
    @pytest.fixture
    def course(self, tmp_path):
        return Course(tmp_path / "course", TERM, [ADA, BEN], NAMES[:1])

    def test_build_and_collect(self, course, tmp_path):
        assert course.build() == 2
        built = course.folder / "students"
        name = NAMES[0]
        archive, told = tmp_path / "all.zip", []
        with zipfile.ZipFile(archive, "w") as z:
            z.write(built / "s001" / f"{name}.ipynb", f"Ada Example_s001_assignsubmission_file_/{name}.ipynb")
            z.write(built / "s001" / f"{name}.ipynb", f"../../ben@example.org/{name} (1).ipynb")
            z.write(built / "s002" / f"{name}.ipynb", "somewhere/notebook.ipynb")
            z.writestr(f"s009/{name}.ipynb", "{}")
            z.writestr("s001/essay.txt", "no notebook")
        assert course.collect(archive, told.append) == 3
        assert sorted(p.parent.name for p in (course.folder / "submitted").rglob("*.ipynb")) == ["s001", "s002"]
        assert len(told) == 2
        assert "it is the copy of s001" in told[0]
        assert "nobody of the roster" in told[1]
        guide = (course.folder / "staff" / name / "guide.md").read_text(encoding="utf8")
        assert "Common mistakes" in guide
        assert "Rubric" in guide

    def test_two_students_get_two_variants(self, course):
        course.students = [Student(f"s{i}", f"{i}@example.org") for i in range(12)]
        course.build()
        texts = {
            (course.folder / "students" / s.id / f"{NAMES[0]}.ipynb")
            .read_text("utf8")
            .replace(f"**{s.id}**", "")
            .replace(f'"{s.id}"', "")
            for s in course.students
        }
        assert len(texts) > 4

    def test_marks_sheets_and_export(self, course, monkeypatch, tmp_path):
        name = NAMES[0]
        course.build()
        told = []
        for student in course.students:
            path = course.folder / "students" / student.id / f"{name}.ipynb"
            notebook = nbformat.read(path, as_version=4)
            question = course.assignment(name, student.id).questions[0]
            in_notebook(notebook, question.name).source = "=Because"
            target = course.folder / "submitted" / student.id / f"{name}.ipynb"
            target.parent.mkdir(parents=True)
            nbformat.write(notebook, target)
        (course.folder / "submitted" / "s002" / f"{name}.ipynb").write_text("not JSON", encoding="utf8")
        passed = {"points": 1.0}

        def pretend(works, workers=1):
            return [{t.name: Mark(passed["points"], t.points) for t in work.assignment.tasks} for work in works]

        monkeypatch.setattr("course.kit.course.grade", pretend)
        assert course.grade(False, 1, told.append) == 2
        assert "isn't a notebook" in told[1]
        assert course.grade(False, 1, told.append) == 0  # nothing is new
        passed["points"] = 2.0
        told.clear()
        assert course.grade(True, 1, told.append) == 2
        assert "discounted_returns 1 -> 2" in told[0]

        told.clear()
        assert course.written(told.append) == 1
        sheet = course.folder / "written" / f"{name}.csv"
        rows = list(csv.DictReader(sheet.open(encoding="utf8")))
        assert [(row["id"], row["points"], row["answer"]) for row in rows] == [
            ("s001", "", "'=Because"),
            ("s002", "0", ""),
        ]
        sheet.write_text(
            sheet.read_text("utf8").replace(f"{question.name},4,,", f"{question.name},4,9,"), encoding="utf8"
        )
        assert course.marks(told.append)["s001"][name][question.name] == 0
        assert "'9' isn't a number from 0 to 4" in told[0]
        sheet.write_text(
            sheet.read_text("utf8").replace(f"{question.name},4,9,", f"{question.name},4,3.5,"), encoding="utf8"
        )
        assert course.written(told.append) == 0
        told.clear()
        course.export("moodle", tmp_path / "m.csv", told.append)
        assert told == []
        first = list(csv.reader((tmp_path / "m.csv").open(encoding="utf8")))[1]
        assert first[:3] == ["s001", "ada@example.org", "13.5"]
        course.export("canvas", tmp_path / "c.csv", told.append)
        assert "Points Possible" in (tmp_path / "c.csv").read_text("utf8")

    def test_the_command_line(self, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv(term.VARIABLE, raising=False)
        assert main(["build", "--folder", str(tmp_path)]) == 2
        assert "secret is missing" in capsys.readouterr().err
        words = ["--term", TERM.secret, "--folder", str(tmp_path), "--assignment", "01"]
        assert main(["build", *words]) == 0
        assert "1 notebooks for 1 students" in capsys.readouterr().out
        assert main(["collect", *words, str(tmp_path / "nothing")]) == 2
        assert main(["build", *words, "--assignment", "99"]) == 2
        assert "names 0 assignments" in capsys.readouterr().err
        assert main(["check", "--assignment", "01"]) == 0


def test_the_kept_matrix_is_complete_and_as_it_should_be():
    with (matrix.RESULTS / "matrix.tsv").open(encoding="utf8") as stream:
        kept = {
            (r["assignment"], r["version"], r["mistake_in"], r["task"]): float(r["points"])
            for r in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        }
    due = {
        (row.assignment.name, row.version, row.mistake_in or "", task): float(points)
        for row in matrix.all_rows(NAMES)
        for task, points in row.expected.items()
    }
    assert kept == due, "run `python -m course.kit matrix`"


@pytest.fixture(scope="module")
def grader():
    """nbgrader in an environment of its own; made from the registry where it isn't there."""
    try:
        return ensure()
    except UserError as error:
        pytest.skip(str(error))


def test_one_assignment_through_the_real_grader(grader):
    rows = matrix.rows_of(NAMES[0])
    chosen = [row for row in rows if row.mistake_in is None] + [next(row for row in rows if row.mistake_in)]
    marks = grade([matrix.work_of(row) for row in chosen], workers=2)
    assert [problem for row, found in zip(chosen, marks, strict=True) for problem in matrix.problems(row, found)] == []


@pytest.mark.grading
@pytest.mark.timeout(3600)
def test_all_assignments_through_the_real_grader(grader, tmp_path):
    results = matrix.measure(NAMES, workers=os.cpu_count() or 1, kept=tmp_path)
    assert [problem for row, marks in results for problem in matrix.problems(row, marks)] == []


NASTY = {
    "loops for ever": "while True:\n        pass",
    "can't be interrupted": "while True:\n        try:\n            while True:\n                pass\n"
    "        except BaseException:\n            pass",
    "kills the kernel": "__import__('os')._exit(0)",
    "prints for ever": "while True:\n        print('x' * 1000)",
    "shows a number": "__import__('sys').displayhook(2.0)\n    raise ValueError",
    "leaves": "raise SystemExit",
}


@pytest.mark.grading
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deed", NASTY)
def test_a_nasty_answer_costs_its_own_task_only(grader, deed):
    row = matrix.rows_of(NAMES[0])[1]
    row.assignment.limit = 5
    work = matrix.work_of(row)
    task = row.assignment.tasks[0]
    head = task.solution.splitlines()[0]
    work.answers[task.name] = f"{head}\n    {NASTY[deed]}"
    (marks,) = grade([work])
    assert {name: mark.points for name, mark in marks.items()} == row.expected | {task.name: 0}
    assert marks[task.name].message


@pytest.mark.grading
@pytest.mark.timeout(3600)
def test_a_student_s_other_cells(grader, monkeypatch):
    """A helper that an answer needs, much output, a cell that fails, overwritten tests; and no sight of the secret."""
    monkeypatch.setenv(term.VARIABLE, TERM.secret)
    row = matrix.rows_of(NAMES[0])[1]
    work = matrix.work_of(row)
    task = row.assignment.tasks[0]
    work.answers[task.name] = task.solution.replace("def ", "import warnings\n\n\ndef ").replace(
        "    following =", "    warnings.warn('old')\n    assert helper()\n    following =", 1
    )
    work.before[task.name] = [
        "def helper():\n    return True",
        "print('x' * 5_000_000)",
        "1 / 0",
        "same = refuses = lambda *a, **k: None\nclass answer: pass\ndraw = None",
        f"import os\nassert {term.VARIABLE!r} not in os.environ\nassert 'HOME' in os.environ",
        "seen = {k: v for k, v in os.environ.items() if 'a term of the' in v}\nif seen: os._exit(1)",
    ]
    (marks,) = grade([work])
    assert {name: mark.points for name, mark in marks.items()} == row.expected
