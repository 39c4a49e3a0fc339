-- New users, each in a country that some user lives in. $1: from when on, $2: the dice.
with span as (
    select min(id) as first_id, max(id) - min(id) + 1 as width from users
),

newcomers as (
    select
        nextval(pg_get_serial_sequence('users', 'id')) as id,
        hashint8extended(n, $2) & 9223372036854775807 as dice,
        $1 + n * interval '1 minute' as registered_at
    from generate_series(1, 2 + (hashint8extended(0, $2) & 7)) as n
),

registered as (
    insert into users (id, email, country, created_at, updated_at)
    select
        newcomers.id,
        'user' || newcomers.id || '@example.com',
        neighbours.country,
        newcomers.registered_at,
        newcomers.registered_at
    from newcomers
    cross join span
    cross join lateral (
        select users.country from users
        where users.id >= span.first_id + newcomers.dice % span.width
        order by users.id
        limit 1
    ) as neighbours
    returning id
)

select 'users registered' as what, count(*) from registered
