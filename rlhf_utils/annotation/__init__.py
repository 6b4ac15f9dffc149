"""Real preferences: a store of pairs and judgements that a class can fill at once, and the doors into it.

``store`` hands out pairs and keeps judgements, ``records`` brings preference records in and out, ``web`` is the small
web app of a class, ``commands`` has the subcommands of ``python -m rlhf_utils annotate``. What it needs comes with the
extra ``[annotate]``.
"""
