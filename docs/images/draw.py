"""The picture on the first page: ``python docs/images/draw.py runs/demo/circuits/fear.json``.

Needs Chromium, whose path may be given as a second word.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import circuits as ec

WIDTH, HEIGHT = 1000, 560

circuit = ec.read_circuit(Path(sys.argv[1]))
browser = sys.argv[2] if len(sys.argv) > 2 else "chromium"
figure = ec.plot.draw(circuit).update_layout(
    width=WIDTH, height=HEIGHT, paper_bgcolor="white", plot_bgcolor="white"
)
with tempfile.TemporaryDirectory() as folder:
    page = Path(folder, "figure.html")
    figure.write_html(page, config={"displayModeBar": False})
    page.write_text(page.read_text().replace("<body>", "<body style='margin:0'>"))
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--virtual-time-budget=8000", f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={Path(__file__).with_name(circuit.emotion)}.png", page.as_uri(),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
