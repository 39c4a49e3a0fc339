-- DuckDB. Makes the web events of the shop's orders: of `orders`, their first `items`, and `days`.
-- data/README.md states every rule. Chance is a hash of what the row is, the same on any machine.

create temp macro dice(what, id) as md5_number_lower(what || ' ' || id);

create temp table visits as
select
    orders.id as order_id,
    orders.user_id,
    orders.amount_cents,
    orders.ordered_at,
    days.day,
    days.next_day,
    left(md5('session ' || orders.id), 16) as session_id
from orders
inner join days on orders.ordered_at::date = days.day;

create temp table steps as
with views as (
    select
        'view' as event_type,
        visits.*,
        items.line_number,
        items.stock_code,
        '/product/' || url_encode(items.stock_code) as path,
        coalesce(
            lag('/product/' || url_encode(items.stock_code)) over (
                partition by visits.order_id order by items.line_number
            ),
            if(dice('referrer', visits.order_id) % 3 = 0, 'https://search.example/', null)
        ) as referrer,
        ordered_at - to_seconds(75 * (7 - items.line_number))
        + to_milliseconds(dice('look', visits.order_id || ' ' || items.line_number) % 60000)
            as event_at
    from visits
    inner join items on visits.order_id = items.order_id
    where items.line_number <= 1 + dice('interest', visits.order_id) % 6
),

carts as (
    select * replace (
        'cart' as event_type,
        path as referrer,
        '/cart' as path,
        event_at + to_milliseconds(5000 + dice('cart', order_id || ' ' || line_number) % 9000)
            as event_at
    )
    from views
    where dice('taste', order_id || ' ' || line_number) % 2 = 0
),

purchases as (
    select
        'purchase' as event_type,
        *,
        0 as line_number,
        null as stock_code,
        '/checkout' as path,
        '/cart' as referrer,
        ordered_at + to_milliseconds(dice('purchase', order_id) % 1000) as event_at
    from visits
)

select * from views
union all
select * from carts
union all
select * from purchases;

create temp table events as
with identified as (
    select *, md5(concat_ws(' ', event_type, order_id, line_number))::uuid::varchar as event_id
    from steps
)

-- Written as text, for an amount to keep its two decimals; what is null is left out, but the user.
select
    day,
    next_day,
    event_id,
    event_at,
    '"event_id":' || to_json(event_id) || ',' as key,
    concat_ws(
        ',',
        '"event_type":' || to_json(event_type),
        '"user_id":' || coalesce(user_id::varchar, 'null'),
        '"session_id":' || to_json(session_id),
        '"order_id":' || if(event_type = 'purchase', order_id, null),
        '"stock_code":' || to_json(stock_code),
        '"event_at":' || to_json(strftime(event_at, '%Y-%m-%dT%H:%M:%S.%gZ'))
    ) as head,
    ',"amount":' || if(
        event_type = 'purchase', (amount_cents::decimal(19, 0) * 0.01)::decimal(19, 2), null
    ) as amount,
    ',"page":' || to_json({'path': path, 'referrer': referrer}) as page,
    concat('{', key, head, amount, page, '}') as line
from identified;

-- One event in a hundred is late, one is sent twice at once, one in two hundred again a day later.
create temp table arrivals as
with sent as (
    select *, dice('late', event_id) % 100 = 0 as is_late, dice('again', event_id) % 200 as again
    from events
)

select
    * replace (if(is_late, next_day, day) as day),
    if(is_late, next_day + to_seconds(dice('delay', event_id) % 21600), event_at) as arrived_at
from sent
union all
select
    * replace (if(is_late, next_day, day) as day),
    if(is_late, next_day + to_seconds(dice('delay', event_id) % 21600), event_at)
    + to_seconds(30) as arrived_at
from sent
where again < 2
union all
select
    * replace (next_day as day),
    next_day + to_seconds(dice('delay again', event_id) % 21600) as arrived_at
from sent
where again = 2 and not is_late;

-- One line in 250 of a file, rounded down, is spoilt: an event that arrived whole a second later.
create temp table files as
with ranked as (
    select
        *,
        row_number() over (partition by day order by dice('spoilt', event_id), arrived_at) as rank,
        count(*) over (partition by day) as day_lines
    from arrivals
    where day in (select days.day from days where days.is_missing)
),

spoilt as (
    select
        day,
        arrived_at - to_seconds(1) as arrived_at,
        case dice('fault', event_id) % 4
            when 0 then left(line, 20 + (dice('cut', event_id) % (length(line) - 20))::integer)
            when 1 then '<html><body>502 Bad Gateway</body></html>'
            when 2 then concat('{', key, head, ',"amount":"n/a"', page, '}')
            else concat('{', head, amount, page, '}')
        end as line
    from ranked
    where rank <= day_lines // 250
)

select day, string_agg(line, chr(10) order by arrived_at, line) || chr(10) as text
from (select day, arrived_at, line from ranked union all select * from spoilt)
group by day;
