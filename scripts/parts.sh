# shellcheck shell=bash
# Sourced after lib.sh by scripts whose parts run side by side. What a part prints is kept, and shown as a whole when it
# ends, so that the parts do not mix.

declare -A part_titles part_logs part_begun
parts_failed=()
parts_folder=$(mktemp -d)

# part TITLE COMMAND...: starts it. It gets nothing to read, and a process group of its own, by which it can be ended
# with all that it started.
part() {
  local title=$1 log
  shift
  log=$(mktemp -p "$parts_folder")
  set -m
  ("$@") </dev/null >"$log" 2>&1 &
  set +m
  part_titles[$!]=$title
  part_logs[$!]=$log
  part_begun[$!]=$SECONDS
  printf '%s ... begun\n' "$title"
}

# parts_end: shows each part when it ends; 1 where one failed, after the others have ended as well.
parts_end() {
  local pid
  while [ "${#part_titles[@]}" -gt 0 ]; do
    sleep 0.2
    for pid in "${!part_titles[@]}"; do
      part_runs "$pid" || part_ended "$pid"
    done
  done
  [ "${#parts_failed[@]}" -gt 0 ] || return 0
  # Once more, below all the others: what to look for further up.
  printf '\n%s\n' "${parts_failed[@]}" >&2
  return 1
}

part_runs() {
  jobs -rp | grep -qx "$1"
}

part_ended() {
  local pid=$1 code=0 line
  wait "$pid" || code=$?
  line="${part_titles[$pid]} ... $([ "$code" = 0 ] || printf 'failed after ')$((SECONDS - part_begun[$pid])) s"
  printf '\n%s\n' "$line"
  # Without empty lines in a row, which cargo prints.
  cat -s "${part_logs[$pid]}"
  [ "$code" = 0 ] || parts_failed+=("$line: $(cat -s "${part_logs[$pid]}" | tail -n 15)")
  unset "part_titles[$pid]"
}

# Ends what still runs: first as Ctrl-C does, so that each part ends what it has begun, after a minute at once, and so
# where Ctrl-C is pressed again.
parts_stop() {
  local pid left=600 dying=100
  trap 'left=0' INT TERM HUP
  for pid in "${!part_titles[@]}"; do kill -INT -- "-$pid" 2>/dev/null || true; done
  for pid in "${!part_titles[@]}"; do
    while kill -0 -- "-$pid" 2>/dev/null && [ $((left--)) -gt 0 ]; do sleep 0.1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
    while kill -0 -- "-$pid" 2>/dev/null && [ $((dying--)) -gt 0 ]; do sleep 0.1; done
  done
  rm -rf "$parts_folder"
}

trap parts_stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
