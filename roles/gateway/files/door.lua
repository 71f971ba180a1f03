-- Lets a request wait for its turn: until its service has an engine, and its client has fewer requests under way than its key
-- allows. Sets txn.turn to `now`, `many` (its client has more waiting than its key allows), `late` (no turn in time), `closed`
-- (no engine in time) or `stopped` (none is to come, so nobody waits for it), and txn.waited to the milliseconds that it took, also
-- when its client leaves before.
local PAUSE = 20 -- milliseconds between two looks
local GRACE = 0.25 -- seconds until a request that was answered counts no more, on a busy host

local returns = Map.new("/usr/local/etc/haproxy/maps/returns.map", Map._str)
local NEVER = "-1" -- of a service that was stopped on purpose

local function clock()
    local now = core.now()
    return now.sec + now.usec / 1e6
end

local function wait_turn(txn, limit)
    local pool, client = txn:get_var("txn.pool"), txn:get_var("txn.client")
    local at_once, queue = tonumber(txn:get_var("txn.at_once")) or 0, tonumber(txn:get_var("txn.queue")) or 0
    local start, waits = clock(), false
    local function count(table_name)
        return tonumber(txn.c:table_conn_cur(client, table_name)) or 0
    end
    while true do
        local turn, patience = "now", tonumber(limit)
        -- Who waits goes on waiting, whoever of its client comes after it.
        waits = waits or at_once == 0 or count("clients") <= at_once + queue
        if not waits then
            turn, patience = "many", GRACE
        elseif txn.f:nbsrv(pool) == 0 then
            turn = "closed"
            if returns:lookup(pool) == NEVER then
                turn, patience = "stopped", 0
            end
        elseif at_once > 0 and count("running") >= at_once then
            turn = "late"
        end
        txn:set_var("txn.waited", math.floor((clock() - start) * 1000))
        if turn == "now" or clock() - start >= patience then
            txn:set_var("txn.turn", turn)
            return
        end
        core.msleep(PAUSE)
    end
end

core.register_action("wait_turn", { "http-req" }, wait_turn, 1)

-- An engine that hangs goes on saying that it is healthy. Where a service has others, one that has requests and makes no tokens
-- gets no new ones, until it makes some again. By its weight: what is kept for it by the configuration looks at that as well.
local LOOK_EVERY = 5000 -- milliseconds
local STALLED = 60 -- seconds without a token

local function sum(metrics, name)
    local total
    for line in metrics:gmatch("[^\n]+") do
        if line:sub(1, #name) == name and line:sub(#name + 1, #name + 1):match("[{ ]") then
            total = (total or 0) + (tonumber(line:match("([%d.eE+-]+)$")) or 0)
        end
    end
    return total
end

local seen = {} -- by backend and server: tokens, since when, whether it was set aside

local function look(key, server)
    local answer = core.httpclient():get({ url = "http://" .. server:get_addr() .. "/metrics", timeout = 4000 })
    local metrics = answer and answer.status == 200 and answer.body or ""
    local tokens, running = sum(metrics, "vllm:iteration_tokens_total_count"), sum(metrics, "vllm:num_requests_running")
    if not tokens or not running then
        return -- it says nothing: the checks of its health decide
    end
    local was, now = seen[key], core.now().sec
    if not was or was.tokens ~= tokens or running == 0 then
        if was and was.aside then
            core.Info("door: " .. key .. " makes tokens again")
            server:set_weight("100%")
        end
        seen[key] = { tokens = tokens, since = now }
    elseif now - was.since >= STALLED and not was.aside then
        core.Warning("door: " .. key .. " has requests and makes no tokens; it gets no new ones")
        was.aside = true
        server:set_weight("0%")
    end
end

local function watch()
    local several = {}
    for name, backend in pairs(core.backends) do
        local count = 0
        for _ in pairs(backend.servers) do
            count = count + 1
        end
        if count > 1 then
            several[name] = backend
        end
    end
    while next(several) do
        for name, backend in pairs(several) do
            for server_name, server in pairs(backend.servers) do
                pcall(look, name .. "/" .. server_name, server)
            end
        end
        core.msleep(LOOK_EVERY)
    end
end

core.register_task(watch)
