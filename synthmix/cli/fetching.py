"""Commands about what a machine has and lacks: fetch, doctor."""

from __future__ import annotations

import argparse

from synthmix.cli.opening import make_console


def fetch(options: argparse.Namespace) -> int:
    from synthmix.config import load_study
    from synthmix.study.fetch import fetch_study

    console = make_console()
    config = load_study(options.study, options.overrides)
    path = fetch_study(config, [options.study, *options.overrides], console)
    console.print(
        f"Everything that {config.name} loads is there, and loads without a network ({path}). Set HF_HUB_OFFLINE=1 on "
        "compute nodes.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def doctor(options: argparse.Namespace) -> int:
    """0; with a study, 1 if one of its needs is missing."""
    from synthmix.cluster.doctor import examine_study, print_machine

    console = make_console()
    if options.study is None:
        print_machine(console)
        return 0
    return 1 if examine_study([options.study, *options.overrides], console) else 0
