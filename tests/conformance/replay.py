#!/usr/bin/env python3
"""Run the scenarios against a server in no-auth mode and compare its answers to golden/."""

import argparse
import collections
import concurrent.futures
import difflib
import fnmatch
import json
import sys
from pathlib import Path

from tests.conformance import kit


def pretty(answer):
    return json.dumps(answer, indent=2, sort_keys=True).splitlines()


def expectation(golden, waiver):
    """The golden answer, with whatever a waiver says is right laid over it."""
    if not waiver:
        return golden
    return {
        **golden,
        **waiver["expect"],
        "headers": {
            name: value
            for name, value in {**golden["headers"], **waiver["expect"].get("headers", {})}.items()
            if value is not None
        },
    }


def loosen(actual, expected):
    """A waiver may leave things open: "<any>" matches whatever is there or nothing, a list any of its own."""
    actual = {**actual, "headers": dict(actual["headers"])}
    if isinstance(expected["status"], list) and actual["status"] in expected["status"]:
        actual["status"] = expected["status"]
    for name, value in expected["headers"].items():
        if value == "<any>":
            actual["headers"][name] = "<any>"
    if expected["body"] == "<any>":
        actual["body"] = "<any>"
    return actual


def play(base_url, name, scenario, golden, waivers):
    run = kit.Run(base_url, scenario)
    results = []
    for step in scenario["steps"]:
        ident = f"{name}/{step['id']}"
        expected = expectation(golden[step["id"]], waivers.get(ident))
        request = f"{step['method']} {step['path']}"
        try:
            method, path, headers, body = run.request_of(step)
            shown = {k: v for k, v in headers.items() if k.lower() != "content-type"}
            request = f"{method} {path[:200]} {json.dumps(shown)[:400]}"
            if body:
                request += f"\n    {len(body)} bytes: {body[:200]!r}"
            actual = run.perform(step)
        except kit.Missing as missing:
            actual = {"status": f"not sent: no earlier answer gave {missing}", "headers": {}, "body": kit.NO_BODY}
        if waivers.get(ident):
            actual = loosen(actual, expected)
        diff = (
            []
            if actual == expected
            else list(difflib.unified_diff(pretty(expected), pretty(actual), "expected", "actual", lineterm="", n=2))
        )
        results.append(
            {
                "id": ident,
                "resource": scenario["resource"],
                "passed": not diff,
                "request": request,
                "expected": expected,
                "actual": actual,
                "diff": diff,
            }
        )
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument(
        "--only", default="*", metavar="GLOB", help="scenario name or scenario/step pattern; whole scenarios are run"
    )
    parser.add_argument("--json", metavar="OUT", help="write every result to this file")
    parser.add_argument(
        "--dir", default=Path(__file__).parent, type=Path, help="folder that holds scenarios/, golden/ and waivers.json"
    )
    parser.add_argument(
        "--no-waivers", action="store_true", help="expect what the reference answers even where that is wrong"
    )
    parser.add_argument("--jobs", type=int, default=1, help="scenarios to run at once")
    parser.add_argument("--quiet", action="store_true", help="no diffs, only ids and counts")
    options = parser.parse_args()
    waivers = {}
    if not options.no_waivers and (options.dir / "waivers.json").exists():
        waivers = json.loads((options.dir / "waivers.json").read_text())
    pattern, _, step_pattern = options.only.partition("/")
    chosen = {name: scenario for name, scenario in kit.load(options.dir).items() if fnmatch.fnmatch(name, pattern)}
    if not chosen:
        raise SystemExit(f"no scenario matches {options.only!r}")
    results = []
    with concurrent.futures.ThreadPoolExecutor(max(1, options.jobs)) as pool:
        runs = [
            pool.submit(
                play,
                options.base_url,
                name,
                scenario,
                json.loads((options.dir / "golden" / f"{name}.json").read_text()),
                waivers,
            )
            for name, scenario in chosen.items()
        ]
        for done in runs:
            for result in done.result():
                if step_pattern and not fnmatch.fnmatch(result["id"], options.only):
                    continue
                results.append(result)
                if not result["passed"]:
                    print(f"FAIL {result['id']}")
                    if not options.quiet:
                        print(f"  {result['request']}")
                        print("\n".join("  " + line for line in result["diff"][2:]), "\n")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    table = collections.defaultdict(lambda: [0, 0])
    for result in results:
        table[result["resource"]][0 if result["passed"] else 1] += 1
    for resource, (passed, failed) in sorted(table.items()):
        print(f"{resource:20} {passed:5} passed {failed:5} failed")
    failed = sum(not result["passed"] for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
