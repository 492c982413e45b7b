# shellcheck shell=bash
# Sourced by the scripts beside it, which run in the top folder of the repository.

# die MESSAGE [WHAT TO DO]...: one line that says what is wrong, then what to do next.
die() {
  printf 'stagegate: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

# step TITLE COMMAND...: runs it quietly, prints one line with the time it took, and the end of its log where it fails.
step() {
  local title=$1 log started=$SECONDS
  shift
  log=$(mktemp)
  printf '%s ... ' "$title"
  if "$@" >"$log" 2>&1; then
    printf '%d s\n' $((SECONDS - started))
    rm -f "$log"
  else
    printf 'failed\n' >&2
    tail -n 40 "$log" >&2
    die "'$*' failed" "its whole output is in $log"
  fi
}

# debian_install PACKAGE...: true when they are installed now; false where this is no Debian or we are not root.
# --no-remove: what stands on the machine stays; a clash is for its owner to settle.
debian_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  export DEBIAN_FRONTEND=noninteractive
  # In a subshell: where it fails, the caller goes on and says what to type instead.
  (step "Installing from Debian: $*" bash -c \
    'apt-get update -q && apt-get install -q -y --no-install-recommends --no-remove "$@"' apt "$@")
}

# version_at_least HAVE WANT
version_at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}
