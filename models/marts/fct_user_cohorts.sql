with orders as (

    select * from {{ ref('int_order_revenue') }}

),

users as (

    select * from {{ ref('int_user_orders') }}

),

dates as (

    select * from {{ ref('dim_dates') }}

),

-- Each user's month, and those of the orders: cancelled ones are none.
active as (

    select
        users.user_id,
        {{ dbt.date_trunc('month', 'users.first_order_date') }}
            as cohort_month,
        {{ dbt.date_trunc('month', 'orders.order_date') }} as activity_month,
        orders.revenue
    from orders
    inner join users on orders.user_id = users.user_id
    where not orders.is_cancelled

),

cohorts as (

    select
        cohort_month,
        count(distinct user_id) as cohort_size
    from active
    group by 1

),

months as (

    select distinct month_start_date from dates
    where
        month_start_date <= (select max(active.activity_month) from active)

),

activity as (

    select
        cohort_month,
        activity_month,
        count(distinct user_id) as active_user_count,
        count(*) as order_count,
        sum(revenue) as revenue
    from active
    group by 1, 2

),

-- A month in which nobody of a cohort came back is a month of 0.
every_month as (

    select
        cast(cohorts.cohort_month as date) as cohort_month,
        months.month_start_date as activity_month,

        cast(
            {{ dbt.datediff(
                'cohorts.cohort_month', 'months.month_start_date', 'month'
            ) }} as integer
        ) as month_number,
        cohorts.cohort_size,
        coalesce(activity.active_user_count, 0) as active_user_count,
        coalesce(activity.order_count, 0) as order_count,
        cast(coalesce(activity.revenue, 0) as decimal(19, 2)) as revenue
    from cohorts
    inner join months on cohorts.cohort_month <= months.month_start_date
    left join activity
    on
        cohorts.cohort_month = activity.cohort_month
        and months.month_start_date = activity.activity_month

),

rated as (

    select
        {{ dbt_utils.generate_surrogate_key([
            'cohort_month', 'activity_month'
        ]) }} as cohort_id,

        month_number,
        cohort_size,
        active_user_count,
        order_count,
        revenue,
        cast(active_user_count * 1.0 / cohort_size as decimal(5, 4))
            as retention_rate,

        cohort_month,
        activity_month
    from every_month

)

select * from rated
