-- One product in 128 gets another price, 0.85 to 1.16 times the old one.
-- $1: from when on, $2: the dice.
with changes as (
    select
        id,
        greatest(
            round(unit_price * (0.85 + 0.01 * (hashint8extended(id, $2 + 1) & 31)), 2), 0.01
        ) as unit_price,
        $1 + row_number() over (order by id) * interval '1 second' as changed_at
    from products
    where
        hashint8extended(id, $2) & 127 = 0
        and unit_price > 0
        and stock_code ~ '^[0-9]'
),

changed as (
    update products
    set unit_price = changes.unit_price, updated_at = changes.changed_at
    from changes
    where products.id = changes.id and products.unit_price <> changes.unit_price
    returning products.id
)

select 'prices changed' as what, count(*) from changed
