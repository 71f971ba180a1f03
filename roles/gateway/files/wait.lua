-- Lets a request wait for its turn: until its service has an engine, and its client has fewer requests under way than its key
-- allows. Sets txn.turn to `now`, `many` (its client has more waiting than its key allows), `late` (no turn in time) or `closed`
-- (no engine in time).
local PAUSE = 20 -- milliseconds between two looks
local GRACE = 0.25 -- seconds until a request that was answered counts no more, on a busy host

local function clock()
    local now = core.now()
    return now.sec + now.usec / 1e6
end

local function wait_turn(txn, limit)
    local pool, client = txn:get_var("txn.pool"), txn:get_var("txn.client")
    local at_once, queue = tonumber(txn:get_var("txn.at_once")) or 0, tonumber(txn:get_var("txn.queue")) or 0
    local start = clock()
    local function count(table_name)
        return tonumber(txn.c:table_conn_cur(client, table_name)) or 0
    end
    while true do
        local turn, patience = "now", tonumber(limit)
        if at_once > 0 and count("clients") > at_once + queue then
            turn, patience = "many", GRACE
        elseif txn.f:nbsrv(pool) == 0 then
            turn = "closed"
        elseif at_once > 0 and count("running") >= at_once then
            turn = "late"
        end
        if turn == "now" or clock() - start >= patience then
            txn:set_var("txn.turn", turn)
            return
        end
        core.msleep(PAUSE)
    end
end

core.register_action("wait_turn", { "http-req" }, wait_turn, 1)
