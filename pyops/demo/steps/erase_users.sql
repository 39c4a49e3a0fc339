-- One or two users ask to be erased: their orders stay, without them. $1: when, $2: the dice.
with erasures as (
    select id from users
    order by hashint8extended(id, $2), id
    limit 1 + (hashint8extended(0, $2) & 1)
),

released as (
    update orders
    set user_id = null, updated_at = $1
    from erasures
    where orders.user_id = erasures.id
    returning orders.id
),

erased as (
    delete from users using erasures where users.id = erasures.id
    returning users.id
)

select 'users erased' as what, count(*) from erased
union all
select 'orders left without a user', count(*) from released
