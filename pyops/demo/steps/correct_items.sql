-- Three lines of orders on their way turn out to hold one piece more, so their orders' amounts do.
-- $1: when, $2: the dice.
with corrections as (
    select items.id, items.order_id, items.quantity + 1 as quantity
    from order_items as items
    inner join orders on items.order_id = orders.id
    where orders.status in ('pending', 'shipped') and items.quantity > 0
    order by hashint8extended(items.id, $2), items.id
    limit 3
),

corrected as (
    update order_items
    set quantity = corrections.quantity, updated_at = $1
    from corrections
    where order_items.id = corrections.id
    returning order_items.id
),

amounts as (
    select
        items.order_id,
        round(
            sum(coalesce(corrections.quantity, items.quantity) * items.unit_price) * 100
        )::bigint as amount_cents
    from order_items as items
    left join corrections on items.id = corrections.id
    where items.order_id in (select order_id from corrections)
    group by items.order_id
),

adjusted as (
    update orders
    set amount_cents = amounts.amount_cents, updated_at = $1
    from amounts
    where orders.id = amounts.order_id
    returning orders.id
)

select 'items corrected' as what, count(*) from corrected
