-- Posts the lines of a file in turn and prints one line of JSON: what tests/bench/load.py reads.
local bodies, at = {}, 0
function init(args)
  for line in io.lines(args[1]) do bodies[#bodies + 1] = line end
  at = math.random(#bodies)
end
function request()
  at = at % #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, bodies[at])
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\nRESULT {"requests": %d, "seconds": %f, "bad": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
