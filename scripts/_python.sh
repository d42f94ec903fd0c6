# Sourced by the other scripts: makes .venv from a Python that is new enough and installs Cumulus into it.
# Usage: . scripts/_python.sh; make_venv [dev]   (sets VENV)
# What it installs is in requirements/*.lock, with hashes; scripts/lock.sh writes them. Where from is pip's own affair
# (pip.conf, PIP_INDEX_URL).

VENV=$PWD/.venv

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; install it, or name it: PYTHON=/path/to/python3.12 $0" >&2
  return 1
}

make_venv() {
  local part=${1:-run} python stamp wanted
  stamp=$VENV/.installed
  # pip is asked again only when what it would install may have changed.
  wanted="$part $(cat pyproject.toml requirements/*.lock | cksum) $PWD"
  if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  python=$(find_python) || return 1
  echo "==> Making .venv with $("$python" --version) and installing Cumulus (a minute or two the first time)" >&2
  [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV" || {
    echo "error: could not make a virtual environment; on Debian and Ubuntu: sudo apt install python3-venv" >&2
    return 1
  }
  # compat: a place on sys.path. The finder that setuptools makes else takes half of the time that Python takes to start.
  if ! install_locked "$part" || ! pip_install --no-deps --no-build-isolation --config-settings=editable_mode=compat --editable .; then
    echo "error: installing failed; the lines above say why" >&2
    return 1
  fi
  light_start "$VENV/bin/cumulus"
  if ! "$VENV/bin/python" -c 'import sys; from cumulus.chronos.device import discover; sys.exit(not discover())'; then
    echo "==> PoCL knows no CPU as new as this one: adding Intel's OpenCL runtime (several hundred MB)" >&2
    install_locked intel-cpu || echo "warning: that failed; without a GPU there is no device to lease" >&2
  fi
  echo "$wanted" >"$stamp"
}

# An older pip (that of Python 3.11, say) begins each program with `import re`: a third of the time in which `cumulus` starts.
light_start() {
  sed -i -e '/^import re$/d' -e "s/= re\.sub(.*, sys\.argv\[0\])\$/= sys.argv[0].removesuffix('.exe')/" "$1"
}

install_locked() { pip_install --require-hashes --requirement "requirements/$1.lock"; }

pip_install() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }
