"""Make assignments from marked sources, hand them out in variants, grade what comes back.

One source an assignment (``course/assignments/NN_name.md``) holds each task, its answer, its tests and the wrong
answers that the tests have to catch. :mod:`course.kit.source` reads it, :mod:`course.kit.notebooks` makes the
student's and the staff's notebooks, :mod:`course.kit.grading` grades.

**Why nbgrader.** It is the grader that Jupyter's own community keeps, and it does what is easy to get wrong: it puts
locked tests back, runs a notebook whose cells fail, stops a cell that takes too long, and turns outputs into marks.
otter 7 doesn't read MyST and wants Docker for grading. nbgrader brings JupyterLab, a hundred packages in all, so it
lives in an environment of its own, ``.venv-course``; students' code runs in a kernel of the book's environment, where
torch is. What nbgrader lacks is here:

- it has one source for all students, so variants are graded one by one, each in a folder of its own that holds nothing
  else (:mod:`course.kit.grading`);
- it stops where cells were renamed or given twice, so answers are first put into a fresh copy of the notebook
  (:mod:`course.kit.repair`);
- it gives up on a notebook whose kernel dies or doesn't stop, so such a notebook is graded again task by task;
- it takes a test cell without an error for a passed test, so each test ends by printing a word that nobody else knows.
"""
